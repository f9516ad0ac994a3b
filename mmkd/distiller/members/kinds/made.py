"""How a teacher that is made of other members is written: ``dict(kind='ema', of='student', …)``."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from mmkd.distiller.members.kinds.combine import Combine
from mmkd.distiller.members.kinds.follow import Follow
from mmkd.distiller.members.member import Member
from mmkd.distiller.taps.points import own_points
from mmkd.registry import KINDS
from mmkd.utils.checks import check_choice, check_dict, check_keys, nearest

_EXAMPLE = "dict(kind='ema', of='student')"


@dataclass(frozen=True)
class Made:
    """One teacher that is made of others, as its config describes it.

    Args:
        name: The name that references use.
        kind: As the config says it.
        made: The class of its kind.
        of: The members that it is made of.
        options: Arguments of that class.
        taps: Of a copy, its own.
        points: Of a copy, its own.
    """

    name: str
    kind: Any
    made: type
    of: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    taps: dict[str, str] = field(default_factory=dict)
    points: dict[str, Any] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """How errors call it."""
        return f'teacher {self.name!r}'

    @property
    def follows(self) -> bool:
        """Whether it is a copy that follows a student."""
        return issubclass(self.made, Follow)

    @property
    def recalls(self) -> bool:
        """Whether it says again what a student said."""
        return issubclass(self.made, Combine) and self.made.recalls

    @classmethod
    def read(cls, name: str, value: Mapping[str, Any]) -> 'Made':
        """Read ``dict(kind=…, of=…, …)``.

        Raises:
            ValueError: There is no such kind; names the nearest one. An option out of range.
            TypeError: Unknown keys, with the nearest match; ``of`` is missing or no name.
        """
        where = f'teacher {name!r}'
        made = _class_of(value['kind'], where)
        parameters = inspect.signature(made).parameters
        own = ('taps', 'points') if issubclass(made, Follow) else ()
        check_keys(value, ('kind', 'of', *own, *parameters), where)
        check_dict(
            f'taps of {where}', value.get('taps'), "taps=dict(logits='decode_head.conv_seg')"
        )
        options = {key: one for key, one in value.items() if key in parameters}
        missing = [
            key
            for key, one in parameters.items()
            if one.default is one.empty and key not in options
        ]
        if missing:
            raise TypeError(
                f'{where} (kind={value["kind"]!r}) also needs {missing}. Mend: {missing[0]}=…'
            )
        read = cls(
            name,
            value['kind'],
            made,
            _names(value.get('of'), where),
            options,
            dict(value.get('taps') or {}),
            own_points(value.get('points'), where),
        )
        read.build()  # its own checks speak of an option that is out of range
        return read

    def build(self) -> Any:
        """Build what its kind is.

        Raises:
            ValueError: An option out of range.
        """
        try:
            return self.made(**self.options)
        except (ValueError, TypeError) as error:
            raise type(error)(f'{self.where}: {error}') from error

    def resolved(self, roles: Mapping[str, str], others: Mapping[str, 'Made']) -> 'Made':
        """Return it with the names of the members that it is made of, all of which are there.

        Args:
            roles: Member -> its role.
            others: Those that are made of others too.

        Raises:
            KeyError: A name of no member, with the nearest one.
            ValueError: A copy of what does not learn, or of several; a combination of itself, of
                another one, or of a single member.
        """
        found: list[str] = []
        combined = [name for name, one in others.items() if not one.follows]
        for name in self.of:
            named = [one for one in roles if fnmatchcase(one, name) and one != self.name]
            if name not in roles:  # a glob, which is of members that run
                named = [one for one in named if one not in combined]
            if not named:
                raise KeyError(
                    f'{self.where}: of={name!r} names no other member{nearest(name, roles)} '
                    f'(members: {sorted(roles)})'
                )
            found += named
        of = tuple(dict.fromkeys(found))
        if self.follows or self.recalls:
            self._check_student(of, roles)
        else:
            self._check_combined(of, others)
        return replace(self, of=of)

    def _check_student(self, of: tuple[str, ...], roles: Mapping[str, str]) -> None:
        does = 'follows' if self.follows else 'recalls'
        if len(of) > 1:
            raise ValueError(
                f'{self.where} {does} one student, got of={list(of)}. Mend: one of each, under a '
                'name of its own'
            )
        if roles[of[0]] != 'student':
            same = 'its copy would be the same' if self.follows else 'it would say the same again'
            raise ValueError(
                f'{self.where} {does} a student while it learns, but {of[0]!r} is a teacher, which '
                f"never changes: {same}. Mend: read {of[0]!r} itself, or of='student'"
            )

    def _check_combined(self, of: tuple[str, ...], others: Mapping[str, 'Made']) -> None:
        nested = [name for name in of if name in others and not others[name].follows]
        if nested:
            raise ValueError(
                f'{self.where} combines members that run, but {nested[0]!r} is a combination '
                f'itself. Mend: of={list(others[nested[0]].of)}'
            )
        if len(of) < 2:
            raise ValueError(
                f'{self.where} (kind={self.kind!r}) combines two members or more, got '
                f'of={list(of)}. Mend: another member, or read {of[0]!r} itself'
            )

    def as_member(self, student: Member) -> Member:
        """Return the description of a copy: the student's, a teacher by another name."""
        return Member(
            self.name,
            'teacher',
            student.model,
            student.cfg,
            student.scope,
            None,
            {**student.taps, **self.taps},
            {**student.points, **self.points},
        )


def _class_of(kind: Any, where: str) -> type:
    if isinstance(kind, type):
        made: Any = kind
    else:
        KINDS.import_from_location()
        check_choice(f'kind of {where}', kind, [*KINDS.module_dict, 'stored'])
        made = KINDS.get(kind)
    if not (isinstance(made, type) and issubclass(made, Follow | Combine)):
        raise TypeError(
            f'kind of {where} must be a class below Follow or Combine, of '
            f'mmkd.distiller.members.kinds, got {made!r}. Mend: class Mine(Combine)'
        )
    return made


def _names(of: Any, where: str) -> tuple[str, ...]:
    names = [of] if isinstance(of, str) else of
    if not isinstance(names, list | tuple) or not all(isinstance(one, str) for one in names):
        raise TypeError(
            f'{where} needs of=, the name of a member or a list of them, got {of!r}. Mend: '
            f'{_EXAMPLE}'
        )
    if not names:
        raise ValueError(f'{where} is made of no member: of=[]. Mend: {_EXAMPLE}')
    return tuple(names)
