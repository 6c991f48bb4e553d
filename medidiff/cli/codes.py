"""What each command's exit codes mean, for its ``--help`` and for the table in the documentation."""

from __future__ import annotations

_FAILURE = "1 failure (no room, no permission, out of memory, a defect)"
_ALWAYS = "2 usage or configuration; 130 interrupted"

MEANINGS = {
    "reconstruct": "0 written; 3 SCAN cannot be read or restored",
    "demo": "0 written",
    "edit": "0 written; 3 SCAN, mask or label map cannot be used",
    "info": "0 SCAN is a volume; 3 it is none, or damaged",
    "models": "0 shown; 1 there is no such model, or the file is damaged",
    "export-bundle": "0 written; 1 there is no such model, or the folder exists",
    "train": "0 trained; 3 a training scan cannot be read",
    "ingest": (
        "0 every file is in a volume or is nothing that anybody would miss; 3 a file that was meant to be a scan is in "
        "no volume, or nothing was found: the report says which"
    ),
    "deidentify": (
        "0 every image was written clean; 3 one was set apart because it cannot be shown to be clean, or there was none"
    ),
    "audit-phi": "0 nothing found, all searched that was asked for; 4 found, or not all could be searched",
    "evaluate": "0 the set passed; 3 no finished set is there; 4 it fell short, or too little was there to know",
    "audit": "0 the set passed; 3 no finished set is there; 4 it leaks, or too little was there to know",
    "synthesize": "0 the set is whole; 1 there is no such generator; 3 a label map or scan cannot be used",
    "release": (
        "0 released, or --check found all as it was; 3 no finished set or release is there; 4 refused, with the reasons"
    ),
    "status": "0 told; 3 STATE is no state folder of flows",
    "listen": "0 after --max-objects; else it ends by 130",
}


def epilog(command: str) -> str:
    """The last lines of a command's help."""
    own = MEANINGS.get(command, "0 ok; 3 bad input; 4 refused by a gate")
    parts = [own, *([] if " 1 " in own else [_FAILURE]), _ALWAYS]
    return f"Exit codes: {'; '.join(parts)}."
