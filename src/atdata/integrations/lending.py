"""Memory that a worker lends to the process it works for: filled again and again, and not copied in between.

What PyTorch does with a tensor of a worker, new shared memory for each, costs several times what it takes to fill it:
its pages have to be made and cleared. Here the reader gives the memory back when its last array goes, and the worker
fills it anew. It has no name in any folder, so that nothing is left over by processes that are killed.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections import OrderedDict
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Borrower", "Lender", "Loan", "borrow", "lender"]

_HEAD = 4096  # bytes before the array: whether it is lent, and what tells this memory from any other
_TOKEN = slice(8, 24)
_IDLE = 4  # pieces that are kept for later by who lends them
_KNOWN = 16  # pieces that are kept at hand by who borrows them


class Loan(NamedTuple):
    """Where another process finds an array.

    Attributes:
        pid: the process that lends it.
        descriptor: the file that it lies in, there.
        token: what is written in that file, and in no other.
        size: bytes of that file.
        shape: of the array.
        dtype: of the array, in NumPy's words.
    """

    pid: int
    descriptor: int
    token: bytes
    size: int
    shape: tuple[int, ...]
    dtype: str


class _Piece:
    """A piece of memory that other processes can reach."""

    def __init__(self, size: int) -> None:
        descriptor = os.memfd_create("atdata", os.MFD_CLOEXEC)
        # The memory itself stays for as long as an array in any process does.
        weakref.finalize(self, os.close, descriptor)
        os.ftruncate(descriptor, _HEAD + size)
        self._memory = mmap.mmap(descriptor, _HEAD + size)
        self._memory[_TOKEN] = os.urandom(16)
        self._descriptor = descriptor
        self._array: weakref.ref[Any] | None = None
        self.size = size
        self.loan: Loan | None = None

    @property
    def free(self) -> bool:
        """Whether neither this process nor another holds the array any more."""
        return self._memory[0] == 0 and (self._array is None or self._array() is None)

    def holds(self, array: NDArray[Any]) -> bool:
        """Whether an array is the one in it."""
        return self._array is not None and self._array() is array

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array in it, with anything in it."""
        found: NDArray[Any] = np.ndarray(shape, dtype, self._memory, _HEAD)
        self._array = weakref.ref(found)
        self.loan = Loan(
            os.getpid(), self._descriptor, bytes(self._memory[_TOKEN]), len(self._memory), shape, dtype.str
        )
        return found

    def lend(self) -> Loan | None:
        """What another process needs to borrow the array; once only, as one reader gives it back."""
        loan, self.loan = self.loan, None
        if loan is not None:
            self._memory[0] = 1
        return loan


class Lender:
    """The memory that this process lends."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._pieces: list[_Piece] = []
        self._lent: weakref.WeakValueDictionary[int, _Piece] = weakref.WeakValueDictionary()

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any] | None:
        """A new array that can be lent; None where this system has no such memory, or no more of it."""
        size = prod(shape) * dtype.itemsize
        fitting = [piece for piece in self._pieces if piece.size >= size and piece.size <= 2 * size and piece.free]
        try:
            piece = fitting[0] if fitting else _Piece(-(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
        except (AttributeError, OSError):
            return None
        if not fitting:
            self._make_room()
            self._pieces.append(piece)
        found = piece.array(shape, dtype)
        self._lent[id(found)] = piece
        return found

    def _make_room(self) -> None:
        """Keep only some of what nobody uses: batches may have become larger, or the reader quicker."""
        idle = [piece for piece in self._pieces if piece.free]
        for piece in idle[: max(0, len(idle) - _IDLE)]:
            self._pieces.remove(piece)

    def lend(self, array: NDArray[Any]) -> Loan | None:
        """What another process needs to borrow an array; None when it cannot be lent, or was already."""
        piece = self._lent.get(id(array))
        return piece.lend() if piece is not None and piece.holds(array) else None


_lenders: list[Lender] = []


def lender() -> Lender:
    """The lender of this process."""
    if not _lenders or _lenders[0].pid != os.getpid():
        _lenders[:] = [Lender()]
    return _lenders[0]


class Borrower:
    """What this process has borrowed, for one reader: memory that comes again is there already.

    Attributes:
        key: what the lender calls the reader.
    """

    def __init__(self) -> None:
        self.key = os.urandom(16)
        self._known: OrderedDict[bytes, mmap.mmap] = OrderedDict()
        _borrowers[self.key] = self

    def memory(self, loan: Loan) -> mmap.mmap:
        """The memory that a loan is of."""
        found = self._known.get(loan.token)
        if found is None:
            found = self._known[loan.token] = _mapped(loan)
            if len(self._known) > _KNOWN:
                self._known.popitem(last=False)
        return found


_borrowers: weakref.WeakValueDictionary[bytes, Borrower] = weakref.WeakValueDictionary()


def borrow(loan: Loan, reader: bytes | None) -> NDArray[Any]:
    """The array that another process lends; it is given back when nobody here holds it, or a view of it, any more.

    Args:
        loan: what the other process says.
        reader: the key of the `Borrower`, where there is one.

    Raises:
        RuntimeError: the process is gone, and its memory with it.
    """
    known = None if reader is None else _borrowers.get(reader)
    memory = _mapped(loan) if known is None else known.memory(loan)
    found: NDArray[Any] = np.ndarray(loan.shape, np.dtype(loan.dtype), memory, _HEAD)
    # A fork of this process has the same memory, and no say in when it is given back.
    weakref.finalize(found, _give_back, memory, os.getpid()).atexit = False
    return found


def _mapped(loan: Loan) -> mmap.mmap:
    gone = f"the worker {loan.pid} is gone, and with it a batch that it had made"
    try:
        descriptor = os.open(f"/proc/{loan.pid}/fd/{loan.descriptor}", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise RuntimeError(f"{gone} ({error})") from None
    try:
        memory = mmap.mmap(descriptor, loan.size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    except (OSError, ValueError) as error:  # another file by now
        raise RuntimeError(f"{gone} ({error})") from None
    finally:
        os.close(descriptor)
    if bytes(memory[_TOKEN]) != loan.token:
        raise RuntimeError(gone)
    return memory


def _give_back(memory: mmap.mmap, pid: int) -> None:
    if os.getpid() == pid:
        memory[0] = 0
