"""C++ for the update of matrices whose gradient is a product: each tile of the product is used where it is, in registers.

A weight's gradient is left^T right, a sum over the data of a batch. Computed by itself it is written and read again by the update,
and a library's product first fills it with zeros: together a fifth of a step at batch 32. Here six rows by two vectors of it are added
up at a time, and the optimizer's rule, spelled from the same Python that the recorded graph runs, makes its step with them.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

C_TYPES = {torch.float32: "float", torch.float64: "double"}
ROWS = 6  # of a tile, which is two vectors wide: of the shapes tried the fastest

_TILES = """
#include <torch/csrc/inductor/cpp_prefix.h>
using V = at::vec::Vectorized<T>;
constexpr int64_t W = V::size(), WIDTH = 2 * W;
constexpr int64_t PANELS = 1 << 16;  // numbers of the right factor that are copied at a time, to stay in the cache
constexpr int64_t GROUP = 8;  // tiles below one another whose part of the left factor is copied together: whole cache lines
static_assert(W >= ROWS);
#define UNROLL _Pragma("GCC unroll 8")

static inline V load(const T* from, int64_t count) { return count < W ? V::loadu(from, count) : V::loadu(from); }

static inline void store(V value, T* to, int64_t count) {
  if (count < W) value.store(to, count); else value.store(to);
}

// A tile of a gradient, added up, whose parameters are still to be updated.
struct Waiting {
  V sum[2 * ROWS];
  int64_t parts = 0, at, stride, columns;

  template <class Rule>
  inline void step(int64_t part, const Rule& rule) const {
    const int64_t first = part % 2 * W;
    if (part < parts && first < columns) rule(sum[part], at + part / 2 * stride + first, columns - first);
  }
};

// Sum over `depth` of left[k, :rows] right[k, :WIDTH]. A division takes long and needs no multiplier: each part of the tile before is
// updated between some of these products.
template <int rows, int64_t depth, class Rule>
static inline void tile(
    const T* left, const T* right, int64_t at, int64_t stride, int64_t columns, Waiting& waiting, const Rule& rule) {
  V sum[rows][2];
  UNROLL for (int r = 0; r < rows; ++r) UNROLL for (int c = 0; c < 2; ++c) {
    sum[r][c] = V(T(0));
    rule.prefetch(at + r * stride + c * W);
  }
  int64_t k = 0;
  for (int64_t part = 0; part < 2 * ROWS; ++part) {
    for (const int64_t end = depth * (part + 1) / (2 * ROWS); k < end; ++k) {
      const V one = V::loadu(right + k * WIDTH), two = V::loadu(right + k * WIDTH + W);
      UNROLL for (int r = 0; r < rows; ++r) {
        const V factor(left[k * ROWS + r]);
        sum[r][0] = at::vec::fmadd(factor, one, sum[r][0]);
        sum[r][1] = at::vec::fmadd(factor, two, sum[r][1]);
      }
    }
    waiting.step(part, rule);
  }
  UNROLL for (int r = 0; r < rows; ++r) UNROLL for (int c = 0; c < 2; ++c) waiting.sum[2 * r + c] = sum[r][c];
  waiting.parts = 2 * rows, waiting.at = at, waiting.stride = stride, waiting.columns = columns;
}

// Update rows `begin` to `end` of a (height, width) matrix whose gradient is left^T right; left (depth, height), right (depth, width).
template <int64_t depth, int64_t height, int64_t width, class Rule>
static void update(const T* left, const T* right, int64_t begin, int64_t end, T* copies, const Rule& rule) {
  constexpr int64_t most = std::max<int64_t>(1, PANELS / (depth * WIDTH)) * WIDTH;
  T *panels = copies, *copied = copies + std::max(PANELS, depth * WIDTH);
  Waiting waiting;
  for (int64_t first = 0; first < width; first += most) {
    const int64_t last = std::min(width, first + most);
    for (int64_t j = first; j < last; j += W) {
      T* to = panels + (j - first) / WIDTH * WIDTH * depth + (j - first) % WIDTH;
      for (int64_t k = 0; k < depth; ++k) load(right + k * width + j, width - j).store(to + k * WIDTH);
    }
    for (int64_t i = begin; i < end; i += ROWS) {
      const int64_t count = std::min<int64_t>(ROWS, end - i), nth = (i - begin) / ROWS % GROUP;
      if (nth == 0)
        for (int64_t k = 0; k < depth; ++k)
          for (int64_t g = 0; g < GROUP && i + g * ROWS < end; ++g)
            load(left + k * height + i + g * ROWS, std::min<int64_t>(ROWS, end - i - g * ROWS))
                .store(copied + (g * depth + k) * ROWS, ROWS);
      const T* rows = copied + nth * depth * ROWS;
      for (int64_t j = first; j < last; j += WIDTH) {
        const T* panel = panels + (j - first) * depth;
        if (count == ROWS)
          tile<ROWS, depth>(rows, panel, i * width + j, width, width - j, waiting, rule);
        else if constexpr (height % ROWS != 0)
          tile<height % ROWS, depth>(rows, panel, i * width + j, width, width - j, waiting, rule);
      }
    }
  }
  for (int64_t part = 0; part < 2 * ROWS; ++part) waiting.step(part, rule);
}
"""


class Matrix(NamedTuple):
    """A parameter to update: (height, width), by a rule; the gradient is a sum over `depth` data. left and right say which factors."""

    depth: int
    height: int
    width: int
    left: int
    right: int
    rule: int
    states: int


class Spelled:
    """A value in C++. What a rule does with it is written down, one statement an operation."""

    def __init__(self, name: str, statements: list[str]) -> None:
        self._name, self._statements = name, statements

    def __str__(self) -> str:
        return self._name

    def _then(self, code: str) -> "Spelled":
        name = f"t{len(self._statements)}"
        self._statements.append(f"const V {name} = {code};")
        return Spelled(name, self._statements)

    def __add__(self, other: Any) -> "Spelled":
        return self._then(f"{self} + {_spell(other)}")

    def __sub__(self, other: Any) -> "Spelled":
        return self._then(f"{self} - {_spell(other)}")

    def __mul__(self, other: Any) -> "Spelled":
        return self._then(f"{self} * {_spell(other)}")

    def __rmul__(self, other: float) -> "Spelled":
        return self._then(f"{_spell(other)} * {self}")

    def __truediv__(self, other: Any) -> "Spelled":
        return self._then(f"{self} / {_spell(other)}")

    def sqrt(self) -> "Spelled":
        """As torch's."""
        return self._then(f"{self}.sqrt()")

    def abs(self) -> "Spelled":
        """As torch's."""
        return self._then(f"{self}.abs()")

    def clamp(self, low: float, high: float) -> "Spelled":
        """As torch's."""
        return self._then(f"at::vec::clamp({self}, {_spell(low)}, {_spell(high)})")

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Spell torch.maximum, which no operator calls."""
        if function is not torch.maximum:
            return NotImplemented
        one, two = args
        return one._then(f"at::vec::maximum({one}, {two})")


def _spell(value: Any) -> str:
    if isinstance(value, Spelled):
        return str(value)
    if not math.isfinite(value):
        raise ValueError(f"{value} has no spelling in C++")
    return f"V(T({float(value)!r}))"


def rule_in_cpp(index: int, rule: Callable[..., Sequence[Any]], states: int) -> str:
    """Return a functor that makes the step of a rule, given a vector of the gradient and where it stands.

    Args:
        index: names it.
        rule: returns the new parameter and states, given them as they are, the gradient and the step's eight numbers.
        states: how many tensors the optimizer keeps of the parameter.
    """
    statements: list[str] = []
    held = range(states + 1)
    parameter, *old = (Spelled(f"x{k}", statements) for k in held)
    new = rule(parameter, Spelled("gradient", statements), old, [Spelled(f"n[{k}]", statements) for k in range(8)])
    lines = [
        f"struct Rule{index} {{",
        *(f"  T* p{k};" for k in held),
        "  V n[8];",
        "  void prefetch(int64_t at) const {",
        *(f"    __builtin_prefetch(p{k} + at, 1);" for k in held),
        "  }",
        "  void operator()(V gradient, int64_t at, int64_t count) const {",
        *(f"    const V x{k} = load(p{k} + at, count);" for k in held),
        *(f"    {line}" for line in statements),
        *(f"    store({value}, p{k} + at, count);" for k, value in enumerate(new)),
        "  }",
        "};",
    ]
    return "\n".join(lines)


def source(dtype: torch.dtype, rules: Sequence[str], matrices: Sequence[Matrix], threads: int) -> tuple[list[str], str]:
    """Return the types of a function's arguments and C++ for it.

    Its arguments: each matrix and its states, in turn; the step's numbers, (cohorts, 8) in float64, and for each matrix the row of
    its own as a constant; whether the loss was finite, without which nothing is done; the factors.

    Args:
        dtype: of all matrices.
        rules: by `rule_in_cpp`; those of `matrices`, whose `rule` is also the row of numbers.
        matrices: what to update.
        threads: how many share the rows.
    """
    number = C_TYPES[dtype]
    depth = max(m.depth for m in matrices)
    factors = 1 + max(max(m.left, m.right) for m in matrices)
    held = [f"m{i}_{k}" for i, m in enumerate(matrices) for k in range(m.states + 1)]
    arguments = [
        *(f"{number}* {name}" for name in held),
        *("const double* numbers", "const bool* finite"),
        *(f"const {number}* f{k}" for k in range(factors)),
    ]
    calls = []
    for i, m in enumerate(matrices):
        blocks = -(-m.height // ROWS)
        pointers = ", ".join(f"m{i}_{k}" for k in range(m.states + 1))
        row = ", ".join(f"V(T(numbers[{8 * m.rule + k}]))" for k in range(8))
        calls += [
            f"{{ const Rule{m.rule} rule{{{pointers}, {{{row}}}}};",
            f"  const int64_t begin = {blocks} * thread / threads * ROWS;",
            f"  const int64_t end = std::min<int64_t>({m.height}, {blocks} * (thread + 1) / threads * ROWS);",
            f"  update<{m.depth}, {m.height}, {m.width}>(f{m.left}, f{m.right}, begin, end, aligned, rule); }}",
        ]
    body = "\n".join(f"    {line}" for line in calls)
    code = f"""
constexpr int ROWS = {ROWS};
using T = {number};
{_TILES}
{chr(10).join(rules)}

extern "C" void kernel({", ".join(arguments)}) {{
  if (!*finite) return;
  {f"#pragma omp parallel num_threads({threads})" if threads > 1 else ""}
  {{
    const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
    static thread_local std::vector<T> copies(std::max(PANELS, {depth} * WIDTH) + GROUP * ROWS * {depth} + 64 / sizeof(T));
    T* const aligned = reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(copies.data()) + 63) / 64 * 64);
{body}
  }}
}}
"""
    return [argument.rpartition(" ")[0] for argument in arguments], code
