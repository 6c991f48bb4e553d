"""A synthetic set with Croissant metadata: NIfTI files, a table of items, and ``croissant.json`` that describes both.

Source: MLCommons Croissant format specification 1.0; Croissant Responsible AI vocabulary 1.0.
"""

from __future__ import annotations

import csv
import hashlib
import io
from pathlib import Path
from typing import Any

from medidiff.export.synthetic_facts import copy_file, write_json
from medidiff.synthetic.marks import SENTENCE
from medidiff.synthetic.metadata import K
from medidiff.synthetic.records import Item
from medidiff.synthetic.reports import Metric, PrivacyReport, QualityReport
from medidiff.synthetic.stored import SyntheticSet

TABLE = "items.csv"
_TEXT, _INTEGER, _NUMBER, _BOOLEAN = "sc:Text", "sc:Integer", "sc:Float", "sc:Boolean"
# name, type, meaning
_COLUMNS = (
    ("id", _TEXT, "Name of the item"),
    ("synthetic", _BOOLEAN, SENTENCE),
    ("image", _TEXT, "Path of the image, NIfTI"),
    ("image_sha256", _TEXT, "SHA-256 of the image"),
    ("label", _TEXT, "Path of the label map, NIfTI; empty if there is none"),
    ("label_sha256", _TEXT, "SHA-256 of the label map"),
    ("modality", _TEXT, "MR or CT"),
    ("suffix", _TEXT, "Contrast, as BIDS calls it"),
    ("seed", _INTEGER, "Seed of the item"),
    ("age_band", _TEXT, "Sampled age band in years; nobody's"),
    ("sex", _TEXT, "Sampled sex; nobody's"),
    ("site", _TEXT, "Sampled centre or class of scanner"),
    ("spacing_i_mm", _NUMBER, "Distance of voxel centres along the first axis, mm"),
    ("spacing_j_mm", _NUMBER, "Distance of voxel centres along the second axis, mm"),
    ("spacing_k_mm", _NUMBER, "Distance of voxel centres along the third axis, mm"),
)
# Of the specification: the words that a reader may rely on.
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def write_croissant(synthetic: SyntheticSet, quality: QualityReport, privacy: PrivacyReport, target: Path) -> None:
    """Write images, label maps, the table and ``croissant.json`` into ``target``.

    Raises:
        InputError: a file of the set is not what its record says.
    """
    target.mkdir(parents=True)
    for item in synthetic.items:
        for file in filter(None, (item.image, item.label)):
            copy_file(synthetic, file, target / file.path)
    table = _table(synthetic).encode()
    (target / TABLE).write_bytes(table)
    write_json(_metadata(synthetic, quality, privacy, table), target / "croissant.json")


def _table(synthetic: SyntheticSet) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([name for name, _, _ in _COLUMNS])
    writer.writerows(_row(item) for item in synthetic.items)
    return stream.getvalue()


def _row(item: Item) -> list[str]:
    drawn, label = item.metadata, item.label
    cells = (
        item.id,
        "true",
        item.image.path,
        item.image.sha256,
        label.path if label else "",
        label.sha256 if label else "",
        item.modality.value,
        item.suffix,
        item.seed,
        drawn.age_band,
        drawn.sex,
        drawn.site,
        *(f"{step:.6g}" for step in item.grid.geometry.spacing),
    )
    return ["" if cell is None else str(cell) for cell in cells]


def _metadata(synthetic: SyntheticSet, quality: QualityReport, privacy: PrivacyReport, table: bytes) -> dict[str, Any]:
    record = synthetic.record
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": record.name,
        "description": " ".join(filter(None, (SENTENCE, record.note, record.description))),
        "conformsTo": ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"],
        "license": _licence(record.licence),
        "creator": {"@type": "sc:Organization", "name": f"medidiff {record.code_version}"},
        "datePublished": record.created.strftime("%Y-%m-%dT%H:%M:%S"),
        "version": "1.0.0",
        "citeAs": "; ".join(source.citation for source in record.sources if source.citation) or record.name,
        "keywords": ["synthetic", "medical imaging", *sorted({item.modality.value for item in synthetic.items})],
        "isLiveDataset": False,
        "distribution": _distribution(synthetic, table),
        "recordSet": [_record_set()],
        **_responsible_ai(synthetic, quality, privacy),
    }


def _licence(licence: str) -> str:
    """The URL of a licence where its name is an SPDX identifier, as Croissant advises."""
    known = licence.replace(".", "").replace("-", "").isalnum() and not licence.startswith("LicenseRef")
    return f"https://spdx.org/licenses/{licence}.html" if known else licence


def _distribution(synthetic: SyntheticSet, table: bytes) -> list[dict[str, Any]]:
    files: list[dict[str, Any]] = [
        {
            "@type": "cr:FileObject",
            "@id": TABLE,
            "name": "items",
            "description": "An item a line, with the hash of its files",
            "contentUrl": TABLE,
            "contentSize": f"{len(table)} B",
            "encodingFormat": "text/csv",
            "sha256": hashlib.sha256(table).hexdigest(),
        }
    ]
    for name, meaning in (("images", "Synthetic images"), ("labels", "Label maps of the synthetic images")):
        if name == "images" or any(item.label for item in synthetic.items):
            files.append(
                {
                    "@type": "cr:FileSet",
                    "@id": name,
                    "name": name,
                    "description": f"{meaning}, NIfTI",
                    "encodingFormat": "application/gzip",
                    "includes": f"{name}/*.nii.gz",
                }
            )
    return files


def _record_set() -> dict[str, Any]:
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"items/{name}",
            "name": name,
            "description": meaning,
            "dataType": kind,
            "source": {"fileObject": {"@id": TABLE}, "extract": {"column": name}},
        }
        for name, kind, meaning in _COLUMNS
    ]
    return {"@type": "cr:RecordSet", "@id": "items", "name": "items", "key": {"@id": "items/id"}, "field": fields}


def _responsible_ai(synthetic: SyntheticSet, quality: QualityReport, privacy: PrivacyReport) -> dict[str, Any]:
    record = synthetic.record
    sources = "; ".join(f"{source.name} ({source.people} people, {source.licence})" for source in record.sources)
    people = sum(source.people for source in record.sources)
    return {
        "rai:dataCollection": f"Sampled from the generative model {record.generator.name} "
        f"(SHA-256 {record.generator.sha256}), trained on: {sources}.",
        "rai:dataCollectionType": ["Software Collection"],
        "rai:dataCollectionRawData": sources,
        "rai:dataAnnotationProtocol": "Label maps come from the generator or were given to it; no person drew them."
        if record.labels
        else "There are no annotations.",
        "rai:machineAnnotationTools": [f"{record.generator.name}, medidiff {record.code_version}"],
        "rai:dataUseCases": ["Research on segmentation and image analysis; not for diagnosis"],
        "rai:dataLimitations": [
            "A generative model repeats what it saw: rare anatomy and pathology are missing or wrong.",
            *_limits_told(record.generator.card),
        ],
        "rai:dataBiases": [
            f"Trained on {people} people; whatever these under-represent is under-represented here.",
            f"Metadata: {record.metadata_model}.",
        ],
        "rai:dataSocialImpact": "Lets methods be developed without access to patients' scans; what it may still tell "
        "about the people of the training set was measured: " + _words(privacy.metrics),
        "rai:personalSensitiveInformation": [
            f"No record of a person. Sampled age bands, sex and site; each combination occurs {K} times or more."
        ],
        "rai:dataManipulationProtocol": f"Fidelity and diversity as measured: {_words(quality.metrics)}",
        "rai:dataReleaseMaintenancePlan": "A release does not change; another set has another hash.",
    }


def _limits_told(card: dict[str, Any]) -> list[str]:
    return [str(card["limits"])] if card.get("limits") else []


def _words(metrics: tuple[Metric, ...]) -> str:
    told = []
    for metric in metrics:
        value = "not computed" if metric.value is None else f"{metric.value:.4g}"
        between = f" [{metric.interval[0]:.4g}, {metric.interval[1]:.4g}]" if metric.interval else ""
        told.append(f"{metric.name} {value}{between} (n = {metric.n} {metric.unit})")
    return "; ".join(told) + "."
