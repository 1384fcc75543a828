"""Whose a study is, where its objects name several patients: decided from all that they named, in no order.

An object without a Patient ID takes a study from nobody; of two Patient IDs the last that was stored has it; and of
the issuers of one Patient ID one that an object names goes before that of its site. Transactions are the caller's.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Row, and_, bindparam, case, func, or_, select, update

from dicomflow.catalog.tables import patient, study, study_patient
from dicomflow.catalog.upsert import Excluded, Upsert

__all__ = ["record_claims", "settle_owners"]

Claim = tuple[str, int, str, bool]
"""Study Instance UID, `patient_key`, the object's `as_of`, and whether it names the issuer."""

_PAGE_UIDS: Final = 5000  # SQLite takes 32,766 parameters a statement
_COLUMNS: Final = tuple(column.name for column in study_patient.c)


def record_claims(connection: Connection, claims: Iterable[Claim]) -> None:
    """Record which patients objects named for their studies, which must be locked."""
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for claim in claims:
        new = dict(zip(_COLUMNS, claim, strict=True))
        row = rows.setdefault(claim[:2], new)
        row |= {"as_of": max(row["as_of"], new["as_of"]), "has_issuer": row["has_issuer"] or new["has_issuer"]}
    _CLAIM.execute(connection, [rows[key] for key in sorted(rows)])


def settle_owners(connection: Connection, study_instance_uids: Collection[str]) -> None:
    """Give studies that several patients were named for to the one that has them; they must be locked."""
    uids = sorted(study_instance_uids)
    uid = study_patient.c.study_instance_uid
    for start in range(0, len(uids), _PAGE_UIDS):
        several = select(uid).where(uid.in_(uids[start : start + _PAGE_UIDS])).group_by(uid).having(func.count() > 1)
        statement = (
            select(study_patient, patient.c.patient_id, patient.c.issuer_of_patient_id)
            .join(patient, patient.c.patient_key == study_patient.c.patient_key)
            .where(uid.in_(several))
        )
        claims: dict[str, list[Row[Any]]] = {}
        for row in connection.execute(statement):
            claims.setdefault(row.study_instance_uid, []).append(row)
        owners = [{"uid": each, "owner": _owner(claims[each])} for each in sorted(claims)]
        if owners:
            changed = update(study).where(study.c.study_instance_uid == bindparam("uid"))
            connection.execute(changed.values(patient_key=bindparam("owner")), owners)


def _owner(claims: Sequence[Row[Any]]) -> int:
    identified = [claim for claim in claims if claim.patient_id] or claims
    last = max(identified, key=lambda claim: (claim.as_of, claim.patient_id))
    same = [claim for claim in identified if claim.patient_id == last.patient_id]
    owner: int = max(same, key=lambda claim: (claim.has_issuer, claim.as_of, claim.issuer_of_patient_id)).patient_key
    return owner


def _changes(new: Excluded) -> dict[str, Any]:
    known = study_patient.c
    return {
        "as_of": case((new.as_of > known.as_of, new.as_of), else_=known.as_of),
        "has_issuer": or_(new.has_issuer, known.has_issuer),
    }


_CLAIM: Final = Upsert(
    study_patient,
    _COLUMNS,
    ("study_instance_uid", "patient_key"),
    _changes,
    lambda new: or_(new.as_of > study_patient.c.as_of, and_(new.has_issuer, ~study_patient.c.has_issuer)),
)
