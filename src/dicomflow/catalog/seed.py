"""The catalog in the tables and columns of the AWS sample, for queries that were written for its database.

Each is a view over our tables: on PostgreSQL in the schema `seed`, on SQLite for one connection, in the place of the
tables of the same names. A text is what the sample kept of an element: dates and times as DICOM writes them, several
values with a backslash between them, and the element's own text where no value could be made of it. What is counted is
counted when it is asked for. This module must not know who asks.
"""
# ruff: noqa: S608  # statements of names of tables and columns alone: no value is in one

from collections.abc import Iterator
from typing import Final

from dicomflow.dicom.attributes import BY_TAG, Attribute, Level, ValueType

__all__ = ["SCHEMA", "VIEWS", "select_of"]

SCHEMA: Final = "seed"
VIEWS: Final = (
    *("patient", "study", "series", "instance", "instancelocation", "studylist"),
    *("ahlidatastore", "ahlijob", "ahliimageset"),
)

# The sample's columns, in its order. What is no tag here is said in `_EXTRA`.
_PATIENT: Final = (0x00100010, 0x00100020, 0x00100021, 0x00100030, 0x00100040)
_STUDY: Final = (
    *(0x0020000D, 0x00080061, 0x00080050, 0x00081060, 0x00080020, 0x00080030, 0x00080032, 0x00080090, 0x0008009C),
    *(0x00081030, 0x00080005, 0x00080051, 0x00081032, 0x00321033),
)
_SERIES: Final = (
    *(0x0020000E, 0x00080031, 0x00080021, 0x0008103E, 0x0008103F, 0x00200011, 0x00080015, 0x00080060, 0x00081050),
    *(0x00081052, 0x00102210, 0x00180015, 0x00181030, 0x00185100),
)
_INSTANCE: Final = (
    *(0x00080012, 0x00080008, 0x00080013, 0x00080016, 0x00080018, 0x00200013, 0x00200037, 0x00200032, 0x00080032),
    *(0x00080022, 0x00080023, 0x00082218, 0x00200012, 0x00200020, 0x00204000, 0x00080301, 0x00280302, 0x20500020),
    *(0x00880200, 0x00280002, 0x00280004, 0x00280010, 0x00280011, 0x00280100, 0x00280102, 0x00280103, 0x00281052),
    0x00281053,
)
# Columns that the sample has as DATE and TIME; all others of elements are text.
_TYPED: Final = frozenset({0x00100030, 0x00080020, 0x00080030, 0x00080032, 0x00080022})
_UIDS: Final = frozenset({0x0020000D, 0x0020000E, 0x00080018, 0x00080016})
_MODALITIES_IN_STUDY, _ACQUISITION_TIME = 0x00080061, 0x00080032

Column = tuple[str, str]  # name and expression


def select_of(view: str, dialect: str, schema: str = "") -> str:
    """Return the statement behind a view.

    Args:
        view: one of `VIEWS`.
        dialect: `postgresql` or `sqlite`.
        schema: where our tables are, as SQL writes it; "" where they are found without it.
    """
    return _View(dialect == "postgresql", f"{schema}." if schema else "").select(view)


class _View:
    """Writes the statements for one dialect; each table is called as it is, whatever schema it is in."""

    def __init__(self, is_postgresql: bool, schema: str) -> None:  # noqa: FBT001  # private
        self._is_postgresql = is_postgresql
        self._schema = schema

    def select(self, view: str) -> str:
        columns, source = {
            "patient": (self._patient, self._from("patient")),
            "study": (self._study, self._from("study")),
            "series": (self._series, self._from("series")),
            "instance": (self._instance, self._from("instance")),
            "instancelocation": (
                self._location,
                f"{self._from('instance')} LEFT JOIN {self._name('object_bucket')} ON 1 = 1",  # it has one row
            ),
            "studylist": (
                self._listed,
                f"{self._from('study')} JOIN {self._name('patient')} ON patient.patient_key = study.patient_key",
            ),
            "ahlidatastore": (
                self._datastore,
                f"FROM (SELECT DISTINCT datastore_id FROM {self._schema}import_job) AS used",
            ),
            "ahlijob": (
                self._job,
                (
                    f"{self._from('series_import')} LEFT JOIN {self._name('import_job')}"
                    " ON import_job.import_job_id = series_import.import_job_id"
                ),
            ),
            "ahliimageset": (self._image_set, self._from("series_image_set")),
        }[view]
        return f"SELECT {', '.join(f'{expression} AS {name}' for name, expression in columns())} {source}"

    def _from(self, table: str) -> str:
        return f"FROM {self._name(table)}"

    def _name(self, table: str) -> str:
        return f"{self._schema}{table} AS {table}"

    def _patient(self) -> Iterator[Column]:
        yield "patientid", "patient.patient_key"
        yield from self._elements(Level.PATIENT, _PATIENT)

    def _study(self) -> Iterator[Column]:
        yield "studyid", "study.study_key"
        yield "patientid", "study.patient_key"
        yield from self._of_study()

    def _listed(self) -> Iterator[Column]:
        yield "studyid", "study.study_key"
        yield from self._of_study()
        yield from self._patient()

    def _of_study(self) -> Iterator[Column]:
        yield from self._elements(Level.STUDY, _STUDY)
        of_study = "WHERE series.study_key = study.study_key"
        images = f"{self._from('series')} JOIN {self._name('instance')} ON instance.series_key = series.series_key"
        yield "seriescount", f"(SELECT count(*) {self._from('series')} {of_study})"
        yield "totalimagecount", f"(SELECT count(*) {images} {of_study})"
        yield "inferenced", "CAST(NULL AS TEXT)"

    def _series(self) -> Iterator[Column]:
        yield "seriesid", "series.series_key"
        yield "studyid", "series.study_key"
        yield from self._elements(Level.SERIES, _SERIES)
        yield "imagecount", f"(SELECT count(*) {self._from('instance')} WHERE instance.series_key = series.series_key)"

    def _instance(self) -> Iterator[Column]:
        yield "instanceid", "instance.instance_key"
        yield "seriesid", "instance.series_key"
        yield from self._elements(Level.INSTANCE, _INSTANCE)

    def _location(self) -> Iterator[Column]:
        yield "locationid", "instance.instance_key"
        yield "instanceid", "instance.instance_key"
        yield "bucketname", "object_bucket.name"
        yield "region", "object_bucket.region"
        yield "filekey", "instance.object_key"

    def _datastore(self) -> Iterator[Column]:
        yield "datastoreid", "row_number() OVER (ORDER BY used.datastore_id)"
        yield "ahlidatastoreid", "used.datastore_id"
        yield "ahlidatastorename", "CAST(NULL AS TEXT)"
        yield "ahlidatastorearn", "CAST(NULL AS TEXT)"

    def _job(self) -> Iterator[Column]:
        yield "jobid", "series_import.series_import_id"
        yield "importjobid", "import_job.job_id"
        yield "ahlidatastoreid", "import_job.datastore_id"
        yield "status", "series_import.status"
        yield "importlocation", "coalesce(import_job.input_s3_uri, series_import.input_prefix)"
        yield "resultlocation", "import_job.output_s3_uri"
        yield "submittedat", self._utc("import_job.submitted_at")
        yield "endedat", self._utc("import_job.ended_at")
        yield "insertedat", self._utc("series_import.created_at")

    def _image_set(self) -> Iterator[Column]:
        yield "seriesid", "series_image_set.series_instance_uid"
        yield "imagesetid", "series_image_set.image_set_id"
        yield "datastoreid", "series_image_set.datastore_id"

    def _utc(self, moment: str) -> str:
        """A point in time as the sample has it, in UTC and without saying so; SQLite keeps it that way."""
        return f"({moment} AT TIME ZONE 'UTC')" if self._is_postgresql else moment

    def _elements(self, level: Level, tags: tuple[int, ...]) -> Iterator[Column]:
        for tag in tags:
            yield f"d{tag:08x}", self._element(level, tag)

    def _element(self, level: Level, tag: int) -> str:
        if level is Level.STUDY and tag == _MODALITIES_IN_STUDY:
            return self._modalities()
        if level is Level.STUDY and tag == _ACQUISITION_TIME:
            return (
                f"(SELECT min(instance.acquisition_time) {self._from('series')} JOIN {self._name('instance')}"
                " ON instance.series_key = series.series_key WHERE series.study_key = study.study_key)"
            )
        attribute = BY_TAG[tag]
        assert attribute.level is level
        column = f"{level}.{attribute.column}"
        # A UID is never missing, and its index serves only who asks for the column itself.
        if tag in _TYPED or tag in _UIDS:
            return column
        # What could not be parsed, or is too long for an index, is in `raw_values`.
        return f"CAST(coalesce({self._text(attribute, column)}, {self._raw(level, attribute)}) AS TEXT)"

    def _modalities(self) -> str:
        """The modalities of a study's series, in order: CT/MR."""
        of_study = f"{self._schema}series AS series WHERE series.study_key = study.study_key AND series.modality <> ''"
        if self._is_postgresql:
            name = 'series.modality COLLATE "C"'
            return f"(SELECT string_agg(DISTINCT {name}, '/' ORDER BY {name}) FROM {of_study})"
        ordered = f"SELECT DISTINCT series.modality AS modality FROM {of_study} ORDER BY 1"
        return f"(SELECT group_concat(modality, '/') FROM ({ordered}))"

    def _raw(self, level: Level, attribute: Attribute) -> str:
        if self._is_postgresql:
            return f"{level}.raw_values ->> '{attribute.keyword}'"
        return f"json_extract({level}.raw_values, '$.{attribute.keyword}')"

    def _text(self, attribute: Attribute, column: str) -> str:
        """An element's value as DICOM writes it."""
        if self._is_postgresql:
            dated = {
                ValueType.DATE: "YYYYMMDD",
                ValueType.TIME: "HH24MISS.US",
                ValueType.DATETIME: "YYYYMMDDHH24MISS.US",
            }
            if attribute.type in dated:
                return _without_zeros(f"to_char({column}, '{dated[attribute.type]}')", attribute.type)
            if attribute.type is ValueType.JSON:
                return self._values(attribute, column)
            return column if attribute.type in {ValueType.TEXT, ValueType.UID} else f"CAST({column} AS TEXT)"
        if attribute.type in {ValueType.DATE, ValueType.TIME, ValueType.DATETIME}:
            plain = f"replace(replace(replace({column}, '-', ''), ':', ''), ' ', '')"
            return _without_zeros(plain, attribute.type)
        if attribute.type is ValueType.FLOAT:
            return f"CASE WHEN {column} IS NOT NULL THEN printf('%.15g', {column}) END"
        return self._values(attribute, column) if attribute.type is ValueType.JSON else column

    def _values(self, attribute: Attribute, column: str) -> str:
        """Several values with a backslash between them (PS3.5 6.4); a sequence is its JSON."""
        if self._is_postgresql:
            joined = (
                "(SELECT string_agg(coalesce(item.value, ''), '\\' ORDER BY item.place)"
                f" FROM jsonb_array_elements_text({column}) WITH ORDINALITY AS item(value, place))"
            )
            is_list = f"jsonb_typeof({column}) = 'array'"
            whole = f"{column} #>> '{{}}'"
        else:
            joined = f"(SELECT group_concat(coalesce(value, ''), '\\') FROM json_each({column}))"
            is_list = f"json_type({column}) = 'array'"
            whole = column
        return f"CASE WHEN {is_list} THEN {joined} ELSE {whole} END" if attribute.many else f"CAST({column} AS TEXT)"


def _without_zeros(moment: str, kind: ValueType) -> str:
    """Leave out a fraction of a second that is none; both databases write it with six digits."""
    return moment if kind is ValueType.DATE else f"rtrim(rtrim({moment}, '0'), '.')"
