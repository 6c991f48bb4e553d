"""The words that may stay in a clean header.

A description such as ``T1 Quillfeather repeat`` is useful and dangerous at once. What stays is decided by a list of
imaging terms, not by a list of names: nobody can write down all names. Names of the file's own persons are taken out
even where they are imaging terms (a Mrs. Head).
"""

from __future__ import annotations

# ruff: noqa: SIM905 - a paragraph of words can be read and sorted, a list of 500 quoted strings cannot
import re
from functools import cache

# Defined terms and enumerated values of the CS attributes of image objects (PS3.3), and the vendors' own of ImageType.
TERMS = frozenset(
    """
    ORIGINAL DERIVED PRIMARY SECONDARY AXIAL LOCALIZER MPR CPR MIP MINIP AVERAGE AVG MEAN PROJECTION IMAGE OTHER NONE
    UNKNOWN MIXED YES NO Y N MOSAIC ND NORM DIS2D DIS3D DIS MFSPLIT VFRAME FM FILTERED FIL RESAMPLED REFORMATTED
    M P R I PHASE MAGNITUDE REAL IMAGINARY FFE SE IR GR EP RM EPI PCA PCM MAP MAPS SCOUT SURVIEW REF REPORT CSA PROC
    DOSE INFO PATIENT SCREEN SAVE RESULTS RCBF RCBV MTT TTP CBF CBV TMAX PERFUSION DIFFUSION ADC TRACE TRACEW FA EADC
    EXP ISO B TENSOR ASL SWI QSM T1 T2 T2STAR PD PROTON DENSITY FLAIR STIR FLUID ATTENUATED SUBTRACTION SUB SUM DIFF
    WATER FAT OP IP OUT IN DIXON W F CT MR PT NM US XA RF CR DX DR MG SC OT PR SR DOC IVUS OCT PX IO XC BI TG SOM5 SEQ
    SPI HEL HELICAL HELIX SPIRAL SEQUENCED CONSTANT ANGLE STATIONARY FREE CONTINUOUS STEP AND SHOOT DYNAMIC STATIC
    WHOLE BODY GATED TOMO VOLUME VOLUMETRIC SAMPLED DISTORTED BASE EMISSION TRANSMISSION ATTENUATION CORRECTED MODE
    2D 3D 4D 1D L H A HEAD FEET LEFT RIGHT ANTERIOR POSTERIOR HFS HFP HFDR HFDL FFS FFP FFDR FFDL LFP LFS RFP RFS U
    MONOCHROME1 MONOCHROME2 MONOCHROME RGB YBR FULL 422 PARTIAL 420 ICT RCT PALETTE COLOR TRUE TRUECOLOR HSV ARGB CMYK
    IDENTITY INVERSE LINEAR EXACT SIGMOID ISO_10918_1 ISO_14495_1 ISO_15444_1 ISO_13818_2 ISO_14496_10 00 01
    DV DI DF WSD SD SI DRW SYN ROW COL LINEAR RECTILINEAR RADIAL RETROSPECTIVE PROSPECTIVE REVERSE CENTRIC SEGMENTED
    SINGLE PARTIAL TWO ECHO GRADIENT SPIN BOTH SK MTC SS TRSS SP MP OSP PER RG CG PPG FC PFF PFP SAT SPATIAL
    ACC_GEMS EDR_GEMS EPI_GEMS FILTERED_GEMS FSA_GEMS IR_GEMS FS GEMS SAT1 SAT2 PFP PFF FAST VASCTOF TOF MP CARD
    T2_STAR TAGGING TAGGED GRID LINE CARTESIAN SENSE GRAPPA SMASH PILS CS ARC ASSET POCS FREQUENCY SLICE SELECTIVE
    FLOW COMPENSATED COMPENSATION ACCELERATION VELOCITY ENCODED ENCODING DIRECTIONAL ISOTROPIC ANISOTROPIC CUMULATIVE
    SPECTRAL FREQ NULLING WATERSUPPRESSION SILICONE SUPPRESSION PRESATURATION NON PRODUCT RESEARCH SERVICE
    BRAIN SKULL NECK CSPINE TSPINE LSPINE SSPINE SPINE CERVICAL THORACIC LUMBAR CHEST THORAX ABDOMEN PELVIS HEART
    CARDIAC LIVER KIDNEY PANCREAS SPLEEN PROSTATE UTERUS BLADDER BREAST AORTA CAROTID LUNG KNEE HIP SHOULDER ELBOW
    WRIST HAND FOOT ANKLE ARM LEG LEGS EXTREMITY FEMUR TIBIA HUMERUS FOREARM JAW ORBIT EYE EAR NOSE SINUS IAC PITUITARY
    FACE FACEBONES TMJ WHOLEBODY HEADNECK CHESTABDOMEN CHESTABDPELVIS ABDOMENPELVIS CAP TOOTH STERNUM RIB RIBS COCCYX
    SACRUM CLAVICLE SCAPULA THIGH CALF FINGER TOE COIL VOLUMECOIL SURFACE MULTICOIL EXTREMITY PHANTOM
    OBLIQUE CORONAL SAGITTAL TRANSVERSE TRANSVERSAL RECUMBENT ERECT SEMIERECT PRONE SUPINE DECUBITUS
    AP PA LL RL RLD LLD RLO LLO LAT LATERAL MEDIAL CC MLO ML LM XCC LMO SIO CW COUNTER CLOCKWISE
    IEC HEAD_NECK LOCAL IEC_HEAD IEC_LOCAL IEC_PARTIAL_BODY IEC_WHOLE_BODY IEC_NORMAL IEC_FIRST_LEVEL IEC_SECOND_LEVEL
    DB_DT E_FIELD PER_NERVE_STIM STATIC FIELD FIRST LEVEL SECOND NORMAL SMR_B1RMS SMR_BORELOCAL SAR
    RIEZ RIESZ HAMMING HANNING BUTTERWORTH GAUSSIAN LORENTZIAN COSINE FILTER BACK PROJ ITERATIVE ALGEBRAIC
    BACKPROJECTION
    RESPIRATORY BELT NAVIGATOR SELF ECG VCG PULSE OXIMETER BREATH HOLD GATING TRIGGER REALTIME REAL TIME BREATHING
    INTERNAL EXTERNAL AUTOMATIC MANUAL AEC OFF ON NONE XYZ_EC Z_EC ZMODULATION MODULATION Z XYZ MA KV
    HU OD US BQML CNTS PROPCNTS GML CM2ML PCNT CPS 1CM MGMINML UMOLMINML DIMENSIONLESS STDDEV SUV BW BSA LBM LBMJAMES
    START ADMIN DECY RAN DTIM ATTN SCAT DCAL MOTN NORM RADL DECAY SLOPE POISSON TIME COUNTS DENS
    1H 3HE 7LI 13C 19F 23NA 31P 129XE ARTERIAL VENOUS PORTAL DELAYED PRE POST CONTRAST ENHANCED PLAIN NATIVE
    IVALUE NATIVE WHOLE BLOCK GEOMETRY INDEX SPACING FLUENCE MASK ROI SEGMENTATION LABEL INTENSITY
    """.split()
)

# Words of scan names: anatomy, contrast, plane, sequence, processing. Lower case; matched as whole runs of letters.
WORDS = frozenset(
    """
    ax axial axi tra trans transverse transversal sag sagittal cor coronal obl oblique localizer localiser loc scout
    survey surview topogram aahead plane planes mr mri ct cta ctp mra mrv mrs pet us fmri dmri smri bold rest resting
    task dti dki dwi adc trace tracew diffusion diff tensor dir dirs bval bvals perf perfusion dsc dce asl pcasl pasl
    swi
    swan qsm tof pc flow venous venogram angio angiogram angiography carotid carotids cow willis t tw flair stir pd
    pdw mprage rage bravo spgr fspgr ir irprep tfe ffe tse fse se gre ge epi ep fl tfl space cube vista vibe
    lava thrive dixon mdixon fiesta ciss bssfp trufi haste ssfse hydro cine tagging radial spiral propeller blade
    multihance gad gd post pre contrast con enhanced plain native wo w without with iv oral delayed arterial portal
    phase mag magnitude pha real imag map maps fieldmap topup rev reverse blip up down ap pa lr rl is si hf fh
    head brain skull neck spine cspine tspine lspine cervical thoracic lumbar sacral whole total body wb chest thorax
    abdomen abd pelvis pel heart cardiac liver kidney kidneys renal adrenal pancreas spleen prostate uterus bladder
    breast aorta lung lungs knee hip shoulder elbow wrist hand foot ankle leg arm orbit orbits eye iac iacs ear sinus
    sinuses pituitary sella hippocampus temporal lobe face bone bones soft tissue std standard stnd detail edge
    smooth kernel recon reformat reformatted mpr mip minip thick thin slice slices sl mm cm ms min sec iso isotropic
    resolution res hires lowres high low fat sat fatsat fs supp water only in out opp opposed phase sense grappa
    caipi mb sms smb accel factor te tr ti fa b bw nex avg average averages norm nd distortion corr corrected
    uncorrected filtered filter moco motion sub subtraction sum mean std dev series protocol exam study routine
    trauma stroke tumor tumour epilepsy ms dementia screening research anat anatomical func functional
    structural calibration cal shim shimming b1 b0 afi prescan ref reference sbref noise test phantom qa qc
    repeat rpt run acq echo echoes multi single dual fast ultra quick turbo spin gradient inversion recovery
    interleaved sequential ascending descending asc desc bids pulse seq sequence default adult child
    pediatric paediatric infant neonate dose exposure report summary screen save dyn dynamic breath hold bh free
    breathing gated ecg trig triggered navigator nav resp respiratory helical axialmode volume vol d ch ns rot
    left right bilateral lt rt bi upper lower limb limbs extremity joint screening follow fu baseline
    epse epfid spc spcir tir tirse qfl fi csi svs press steam me fid hasteirttra coil array matrix flex
    headneck torso surface transmit receive quad birdcage posterior anterior large small medium
    hu us normalized normalised
    """.split()
)

VENDORS = frozenset(
    """
    siemens healthineers healthcare ge medical systems system philips canon toshiba hitachi fujifilm fuji uih united
    imaging shanghai bruker biospin esaote samsung medison mindray neusoft medtronic hologic agfa carestream kodak
    konica minolta shimadzu varian agilent mr magnetic resonance ct health care corporation corp co ltd inc gmbh ag
    acuson atl hyperfine synaptive time medical aspect paramed marconi picker elscint analogic neurologica xoran
    planmeca vatech morita sirona carl zeiss olympus sonosite supersonic imagine alpinion chison electric
    """.split()
)

MODELS = frozenset(
    """
    magnetom prisma skyra trio triotim tim verio vida aera avanto espree symphony sonata allegra harmony concerto
    essenza amira sola lumina altea cima terra spectra fit xq xr plus free max flow dot biograph mmr vision horizon
    sensation somatom definition as flash edge force drive confidence emotion perspective scope go now up all top
    open naeotom alpha signa pioneer premier architect artist voyager hero hdx hdxt hde excite discovery optima
    revolution lightspeed brightspeed vct pro ultra ct hd apex evo frontier performix highspeed qx i genesis creator
    explorer mr w s r achieva ingenia ingenuity intera gyroscan panorama ambition elition brilliance iqon icon
    spectral gemini vereos tf mx iq spectral aquilion one prime genesis precision lightning vantage titan galan
    orian elan centurian echelon oval oasis airis scenaria supria aperto umr uct upmr umi logiq vivid epiq affiniti
    iu he cx elite clearvue voluson acuson sequoia antares aplio xario smart mobile portable ecam symbia infinia
    brightview precedence spirit millennium varicam artis zee zeego pheno axiom innova allura xper clarity azurion
    swoop evry icon t ct pet nm us dx dr definium ysio mobilett
    """.split()
)

# Forms that carry a number: contrast weights, planes of sampling, b-values, counts with a unit, field strength.
_SHAPES = re.compile(
    r"t[12](?:w|star|rho)?|[1234]d|b\d{1,4}|\d{1,3}(?:mm|ch|sl|dir|dirs|ns|ms|min|sec|echo|deg)|[137]t|\d\dh|"
    r"[vx][abcde]\d\d[a-z]?|dv\d\d|mb\d|sms\d|te\d{1,3}|tr\d{1,4}|ti\d{1,4}|p\d|iso\d"
)
_KERNELS = re.compile(
    r"[BHIUTASQ][a-z]?\d{2,3}[a-z]?|FC\d{2}|Y?[A-E]|[UE][A-C]|L|\d|STANDARD|BONE(?:PLUS)?|LUNG|SOFT|DETAIL|EDGE|CHST|"
    r"SMOOTH|SHARP|BRAIN|HEAD|BODY"
)
# Patient orientation: up to three of right, left, anterior, posterior, head, feet.
_DIRECTION = re.compile(r"[RLAPHF]{1,3}")
_NUCLEI = frozenset({"1H", "3HE", "7LI", "13C", "19F", "23NA", "31P", "129XE", "H1"})
_BREAKS = re.compile(r"[^A-Za-z0-9]+")
_PARTS = re.compile(r"[^\W\d_]+|\d+")
# Longest text that is read for words; anything beyond is free text that nobody needs.
_MAX_TEXT = 256


def clean_term(value: str, veto: frozenset[str] = frozenset()) -> str | None:
    """A CS value if all of it is known vocabulary, else None.

    Args:
        value: One value of a CS attribute.
        veto: Lower-case names that occur in the file and may not stay.
    """
    text = value.strip(" \0").upper()
    parts = [part for part in re.split(r"[ _/-]+", text) if part]
    if not parts or len(text) > 16 or any(part.lower() in veto for part in (text, *parts)):
        return None
    whole = text in TERMS or _DIRECTION.fullmatch(text) is not None
    return text if whole or all(part in TERMS or (part.isdigit() and len(part) <= 2) for part in parts) else None


def clean_words(value: str, veto: frozenset[str] = frozenset(), extra: frozenset[str] = frozenset()) -> str:
    """What remains of a description when only imaging terms stay, in their order, joined by single spaces.

    Args:
        value: The text of a header.
        veto: Lower-case names that occur in the file and may not stay.
        extra: Further words that may stay, lower case.
    """
    return " ".join(
        word
        for word in _BREAKS.split(value[:_MAX_TEXT])
        if word and word.lower() not in veto and is_known_word(word, extra) and not _vetoed(word, veto)
    )


@cache
def is_known_word(word: str, extra: frozenset[str] = frozenset()) -> bool:
    """Whether a word is made of imaging terms; numbers count only where a term gives them a meaning."""
    lowered = word.lower()
    if _SHAPES.fullmatch(lowered) or lowered in WORDS or lowered in extra:
        return True
    parts = _PARTS.findall(lowered)
    letters = [part for part in parts if part.isalpha()]
    if len(parts) < 2 or not any(len(part) > 1 for part in letters):
        return False
    return all(part in WORDS or part in extra if part.isalpha() else len(part) <= 3 for part in parts)


def clean_kernel(value: str, veto: frozenset[str] = frozenset()) -> str | None:
    """A convolution kernel's name (B30s, STANDARD, FC08), or None."""
    text = value.strip(" \0")
    return text if _KERNELS.fullmatch(text) and text.lower() not in veto else None


def clean_nucleus(value: str) -> str | None:
    """An isotope's name, or None."""
    text = value.strip(" \0").upper()
    return text if text in _NUCLEI else None


def _vetoed(word: str, veto: frozenset[str]) -> bool:
    return any(part in veto for part in _PARTS.findall(word.lower()))
