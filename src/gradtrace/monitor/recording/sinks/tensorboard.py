"""TensorBoard: scalars, histograms of log2 |gradient|, findings as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradtrace.monitor.recording.sinks.sink import Sink

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gradtrace.monitor.recording.sinks.sink import Log2Histogram


class TensorBoardSink(Sink):
    """Writes with a ``SummaryWriter``: torch's, tensorboardX's, or any object with its methods."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    @classmethod
    def open(cls, folder: str) -> TensorBoardSink:
        """A writer of our own."""
        from torch.utils.tensorboard import SummaryWriter

        return cls(SummaryWriter(folder))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One tag each."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def histogram(self, step: int, name: str, histogram: Log2Histogram) -> None:
        """One bucket per power of two."""
        edges, counts = histogram.edges, histogram.filled
        middles = [edge + 0.5 for edge in edges[:-1]]
        num = sum(counts)
        self._writer.add_histogram_raw(
            name,
            min=edges[0],
            max=edges[-1],
            num=num,
            sum=sum(count * middle for count, middle in zip(counts, middles, strict=True)),
            sum_squares=sum(count * middle**2 for count, middle in zip(counts, middles, strict=True)),
            bucket_limits=edges[1:],
            bucket_counts=counts,
            global_step=step,
        )

    def text(self, step: int, name: str, text: str) -> None:
        """As text."""
        self._writer.add_text(name, text, step)

    def close(self) -> None:
        """Write what is waiting; the writer stays the user's."""
        self._writer.flush()
