"""Build blocks that run frame by frame; `contract` says what a block promises."""

from audiomask.ports import Port
from audiomask.streaming.combinators import Context, Delay, Gate, Parallel, Residual, Sequential, Steps
from audiomask.streaming.contract import Streaming, simplest, whole
from audiomask.streaming.model import StreamingModel
from audiomask.streaming.state import State, flatten_state, tree_map, unflatten_state
from audiomask.streaming.tracing import either, recur, to_onnx
