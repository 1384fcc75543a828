"""Negotiation: what a request proposes becomes what is accepted (PS3.8 7.1, PS3.7 D.3).

A function of the request and the policy; whether the caller may associate at all is the edge's decision.
"""

import functools
from dataclasses import dataclass
from typing import Final

from dicomflow.dicom.uids import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    STORAGE_COMMITMENT,
    STORAGE_SERVICE_CLASS,
    VERIFICATION,
    is_other_sop_class,
    is_storage_sop_class,
    is_storage_transfer_syntax,
    is_usable,
)
from dicomflow.dimse.items import AnsweredContext, ProposedContext, Role
from dicomflow.dimse.pdu import AssociateAccept, AssociateRequest

__all__ = [
    "ABSTRACT_SYNTAX_NOT_SUPPORTED",
    "ACCEPTANCE",
    "NO_REASON",
    "STORAGE_ALONE",
    "TRANSFER_SYNTAXES_NOT_SUPPORTED",
    "USER_REJECTION",
    "AcceptedContext",
    "Offer",
    "accepted_contexts",
    "negotiate",
    "proposes_storage",
]

ACCEPTANCE: Final = 0
USER_REJECTION: Final = 1
NO_REASON: Final = 2
ABSTRACT_SYNTAX_NOT_SUPPORTED: Final = 3
TRANSFER_SYNTAXES_NOT_SUPPORTED: Final = 4

# Peers send the service's own messages in these two; the first proposed wins (PS3.5 10.1).
_SERVICE_TRANSFER_SYNTAXES: Final = frozenset({IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN})
# In these any object can be sent, decompressed where it has to be.
_UNCOMPRESSED: Final = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)


@dataclass(frozen=True, slots=True)
class Offer:
    """Which services an acceptor performs beside Verification.

    Attributes:
        storage: whether it stores what is sent.
        services: SOP classes of other services, by UID.
        retrieving: those of them by which a requestor gets objects on its own association (C-GET): where one is
            accepted, the requestor may be SCP of storage (PS3.4 C.5.3).
        extended: what of extended negotiation is agreed to, by SOP class, a byte for each (PS3.4 C.5.1, C.5.2).
        stored_syntaxes: by storage SOP class the transfer syntaxes of what is stored of it, the most frequent first.
        commitment_reports: whether Storage Commitment was asked of the requestor, which may report as its SCP.
    """

    storage: bool = True
    services: frozenset[str] = frozenset()
    retrieving: frozenset[str] = frozenset()
    extended: tuple[tuple[str, bytes], ...] = ()
    stored_syntaxes: tuple[tuple[str, tuple[str, ...]], ...] = ()
    commitment_reports: bool = False


STORAGE_ALONE: Final = Offer()


@dataclass(frozen=True, slots=True)
class AcceptedContext:
    """An accepted presentation context: what its messages are about and how their data sets are encoded."""

    context_id: int
    abstract_syntax: str
    transfer_syntax: str


def negotiate(
    request: AssociateRequest,
    *,
    max_length: int,
    user_identity_response: bytes | None = None,
    offer: Offer = STORAGE_ALONE,
) -> AssociateAccept:
    """Answer every proposed context, in the request's order, with its own ID.

    A request that decoding keeps costs a look-up once it was answered.

    Args:
        request: a decoded A-ASSOCIATE-RQ.
        max_length: the maximum length to announce, in bytes; 0 means no limit (PS3.8 D.1).
        user_identity_response: content of item 59H, or None for no item.
        offer: what is served here.
    """
    answer = _negotiate_once if request.is_kept else _negotiate
    return answer(request, max_length, user_identity_response, offer)


def _negotiate(
    request: AssociateRequest, max_length: int, user_identity_response: bytes | None, offer: Offer
) -> AssociateAccept:
    policy = _Policy(request, offer)
    answers = tuple(policy.answer(context) for context in request.contexts)
    accepted = {
        context.abstract_syntax
        for context, answer in zip(request.contexts, answers, strict=True)
        if answer.result == ACCEPTANCE
    }
    return AssociateAccept(
        contexts=answers,
        max_length=max_length,
        echoed=request.echoed,
        # One operation at a time each way; the item is answered only where it was offered (PS3.7 D.3.3.3).
        asynchronous_window=None if request.asynchronous_window is None else (1, 1),
        roles=tuple(policy.answer_role(role) for uid, role in policy.roles.items() if uid in accepted),
        extended=_agreed(request, offer, accepted),
        user_identity_response=user_identity_response,
    )


def _agreed(request: AssociateRequest, offer: Offer, accepted: set[str]) -> tuple[tuple[str, bytes], ...]:
    """Answer extended negotiation with what both sides have: no longer than it was offered, since old peers choke."""
    ours = dict(offer.extended)
    return tuple(
        (uid, bytes(mine & theirs for mine, theirs in zip(ours[uid], offered, strict=False)))
        for uid, offered in dict(request.extended).items()
        if uid in ours and uid in accepted
    )


_negotiate_once: Final = functools.lru_cache(maxsize=64)(_negotiate)


def accepted_contexts(request: AssociateRequest, accept: AssociateAccept) -> dict[int, AcceptedContext]:
    """Return the accepted contexts of an association by their ID; an answer that fits no proposal accepts nothing."""
    proposed = {context.context_id: context for context in request.contexts}
    return {
        answer.context_id: AcceptedContext(
            answer.context_id, proposed[answer.context_id].abstract_syntax, answer.transfer_syntax
        )
        for answer in accept.contexts
        if answer.result == ACCEPTANCE
        and answer.context_id in proposed
        and answer.transfer_syntax in proposed[answer.context_id].transfer_syntaxes
    }


def proposes_storage(request: AssociateRequest) -> bool:
    """Tell whether a request proposes anything but services that store nothing, as queries are."""
    return any(not is_other_sop_class(context.abstract_syntax) for context in request.contexts)


class _Policy:
    """Judges the contexts of one request, each by itself."""

    def __init__(self, request: AssociateRequest, offer: Offer) -> None:
        self.roles = {role.sop_class_uid: role for role in request.roles}
        self._offer = offer
        self._general_classes = {uid: (service, related) for uid, service, related in request.common_extended}
        self._stored_syntaxes = dict(offer.stored_syntaxes)
        # Where the requestor gets objects here, it is their SCP.
        self._is_retrieving = any(
            context.abstract_syntax in offer.retrieving
            and not _SERVICE_TRANSFER_SYNTAXES.isdisjoint(context.transfer_syntaxes)
            for context in request.contexts
        )

    def answer(self, context: ProposedContext) -> AnsweredContext:
        """Judge one context.

        An even ID does no harm, so it is let pass as DCMTK does (PS3.8 9.3.2.2 wants odd ones); 0 stands for none.
        """
        if not context.context_id:
            return _refuse(context, NO_REASON)
        role = self.roles.get(context.abstract_syntax)
        # A requestor that is the SCP only retrieves, or reports on a commitment that nobody here asked for.
        is_scp_alone = role is not None and role.scp and not role.scu
        is_report = self._reports(context.abstract_syntax, role)
        if context.abstract_syntax == VERIFICATION or context.abstract_syntax in self._offer.services or is_report:
            acceptable = [uid for uid in context.transfer_syntaxes if uid in _SERVICE_TRANSFER_SYNTAXES]
            if is_scp_alone and not is_report:
                return _refuse(context, USER_REJECTION)
        elif _is_storage(context.abstract_syntax, self._general_classes):
            if not self._gets(role) and (is_scp_alone or not self._offer.storage):
                return _refuse(context, USER_REJECTION if is_scp_alone else ABSTRACT_SYNTAX_NOT_SUPPORTED)
            acceptable = [uid for uid in context.transfer_syntaxes if is_storage_transfer_syntax(uid)]
        else:
            return _refuse(context, ABSTRACT_SYNTAX_NOT_SUPPORTED)
        if not acceptable:
            return _refuse(context, TRANSFER_SYNTAXES_NOT_SUPPORTED)
        if self._gets(role):
            return AnsweredContext(context.context_id, ACCEPTANCE, self._to_send(context.abstract_syntax, acceptable))
        # The requestor's order is its preference: forcing one's own makes senders decompress.
        return AnsweredContext(context.context_id, ACCEPTANCE, acceptable[0])

    def answer_role(self, role: Role) -> Role:
        """Grant a proposed role: of SCU where we are the SCP, of SCP where the requestor gets objects, or reports.

        PS3.7 D.3.3.4: 1 only where 1 was proposed.
        """
        if self._reports(role.sop_class_uid, role):
            return Role(role.sop_class_uid, scu=role.scu and STORAGE_COMMITMENT in self._offer.services, scp=role.scp)
        if not self._gets(role):
            return Role(role.sop_class_uid, scu=role.scu, scp=False)
        return Role(role.sop_class_uid, scu=role.scu and self._offer.storage, scp=True)

    def _reports(self, abstract_syntax: str, role: Role | None) -> bool:
        """Tell whether a requestor may report on commitment; some do without a role item (PS3.4 J.3.3)."""
        return self._offer.commitment_reports and abstract_syntax == STORAGE_COMMITMENT and (role is None or role.scp)

    def _gets(self, role: Role | None) -> bool:
        """Tell whether a requestor wants to be SCP of a storage class, and gets objects here (PS3.4 C.5.3)."""
        return (
            self._is_retrieving
            and role is not None
            and role.scp
            and _is_storage(role.sop_class_uid, self._general_classes)
        )

    def _to_send(self, sop_class_uid: str, acceptable: list[str]) -> str:
        """Choose the syntax that objects of a class are sent in, since a context has one and nobody knows which ones.

        What all stored objects have is taken, else an uncompressed one, in which each can be sent, else the one that
        most of them have.
        """
        stored = self._stored_syntaxes.get(sop_class_uid, ())
        fitting = [uid for uid in stored if uid in acceptable]
        if fitting and len(stored) == 1:
            return fitting[0]
        plain = [uid for uid in (*fitting, *_UNCOMPRESSED) if uid in _UNCOMPRESSED and uid in acceptable]
        return next(iter([*plain, *fitting, *acceptable]))


def _refuse(context: ProposedContext, result: int) -> AnsweredContext:
    """Echo the first syntax, which is not significant (PS3.8 9.3.3.2), unless it is no UID at all."""
    first = next(iter(context.transfer_syntaxes), "")
    return AnsweredContext(context.context_id, result, first if is_usable(first) else IMPLICIT_VR_LITTLE_ENDIAN)


def _is_storage(uid: str, general_classes: dict[str, tuple[str, tuple[str, ...]]]) -> bool:
    if is_storage_sop_class(uid):
        return True
    if is_other_sop_class(uid) or not is_usable(uid):
        return False
    # PS3.4 B.3.1.3 and B.3.1.4: a specialised class says which service, or which general class, it belongs to.
    service, related = general_classes.get(uid, ("", ()))
    return service == STORAGE_SERVICE_CLASS or any(is_storage_sop_class(general) for general in related)
