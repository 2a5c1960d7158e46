"""What the engine process sends, taken off its socket and handed to those who wait for it.

In vLLM a message goes through two tasks, a queue and futures of pyzmq's to get there: three turns
of the event loop, which at a request at a time are a third of what a token costs this process. Here
it is read, decoded and handed over in the one turn in which it is found.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import zmq
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.core import EngineCoreProc
from vllm.v1.engine.core_client import AsyncMPClient, _process_utility_output
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.metrics.stats import IterationStats

from serving.engine.outputs import State, is_midway
from serving.engine.stats import Stats

_DEAD = EngineCoreProc.ENGINE_CORE_DEAD
_MORE = int(zmq.POLLIN)  # the flag itself takes microseconds to compare

_log = logging.getLogger("serving.engine")


class Core(AsyncMPClient):
    """vLLM's half of the connection to the engine process, which leaves reading to an `Inlet`."""

    inlet: Inlet

    def _ensure_output_queue_task(self) -> None:
        self.inlet.open()


class Inlet:
    """Reads for one `AsyncLLM`, from the first request on, in the loop that asks for it."""

    def __init__(self, llm: AsyncLLM) -> None:
        core = llm.engine_core
        self._core = core
        self._resources = core.resources
        self._processor = llm.output_processor
        self._states: dict[str, State] = llm.output_processor.request_states
        self._renderer = llm.renderer
        self._manager = llm.logger_manager
        loggers = self._manager.stat_loggers if self._manager else ()
        self._stats = [each for each in loggers if isinstance(each, Stats)]
        self._aborting: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Start to read, unless that has begun. `resources.output_queue_task` runs until it ends:
        vLLM cancels it when it closes the socket, which it does when the process is dead."""
        if self._resources.output_queue_task is None:
            loop = asyncio.get_running_loop()
            self._broken: asyncio.Future[None] = loop.create_future()
            # The same socket, read at once: vLLM's object makes a future for each message.
            self._socket: zmq.Socket[bytes] = zmq.Socket.shadow(self._resources.output_socket)
            self._resources.output_queue_task = loop.create_task(self._read(self._socket.FD))

    async def _read(self, descriptor: int) -> None:
        """Whoever waits hears it if this ends."""
        loop = asyncio.get_running_loop()
        # The descriptor says that there is news once for all of it, and not for what came before.
        loop.add_reader(descriptor, self._drain)
        loop.call_soon(self._drain)
        try:
            await self._broken
        except asyncio.CancelledError:
            self._processor.propagate_error(EngineDeadError())
        except Exception:
            if self._resources.engine_dead:
                error = EngineDeadError()
            else:
                _log.exception("what the engine sent could not be handed over")
            self._processor.propagate_error(error)
        finally:
            loop.remove_reader(descriptor)

    def _drain(self) -> None:
        """Take what has come; a message a turn, so that its tokens go out before the next."""
        if self._resources.engine_dead:  # vLLM says so before it closes the socket
            return
        try:
            self._take(self._receive())
            events: Any = self._socket.get(zmq.EVENTS)
            if events & _MORE:
                asyncio.get_running_loop().call_soon(self._drain)
        except zmq.Again:
            pass
        except Exception as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self._broken.done():
            self._broken.set_exception(error)

    def _receive(self) -> bytes | list[bytes]:
        """A message: one part, or more if it has arrays."""
        first = self._socket.recv(zmq.NOBLOCK)
        if self._socket.get(zmq.RCVMORE):
            return [first, *self._socket.recv_multipart(zmq.NOBLOCK)]
        if first == _DEAD:
            self._resources.engine_dead = True
            raise EngineDeadError
        return first

    def _take(self, message: bytes | list[bytes]) -> None:
        step: EngineCoreOutputs = self._core.decoder.decode(message)
        if (told := step.utility_output) is not None:
            if told.call_id in self._core.utility_results:  # others are news that nobody asked for
                _process_utility_output(told, self._core.utility_results)
            return
        midway: list[tuple[State, EngineCoreOutput]] = []
        rest: list[EngineCoreOutput] = []
        for output in step.outputs:
            state = self._states.get(output.request_id)
            if state is not None and is_midway(state, output):
                midway.append((state, output))
            else:
                rest.append(output)
        # First those who begin or end: the others have something to read already.
        counted = self._begin_or_end(step, rest) if rest or step.scheduler_stats else None
        tokens, gaps = 0, list[float]()
        for state, output in midway:
            tokens += len(output.new_token_ids)
            if (gap := state.advance(output.new_token_ids, step.timestamp)) is not None:
                gaps.append(gap)
        self._count(step, counted, tokens, gaps)

    def _begin_or_end(
        self, step: EngineCoreOutputs, outputs: Sequence[EngineCoreOutput]
    ) -> IterationStats | None:
        """As vLLM does it."""
        counted = IterationStats() if self._stats and step.outputs else None
        done = self._processor.process_outputs(outputs, step.timestamp, counted)
        if done.reqs_to_abort:
            abort = asyncio.create_task(self._core.abort_requests_async(done.reqs_to_abort))
            self._aborting.add(abort)
            abort.add_done_callback(self._aborted)
        self._processor.update_scheduler_stats(step.scheduler_stats)
        return counted

    def _aborted(self, abort: asyncio.Task[None]) -> None:
        self._aborting.discard(abort)
        if not abort.cancelled() and (error := abort.exception()) is not None:
            self._fail(error)

    def _count(
        self,
        step: EngineCoreOutputs,
        counted: IterationStats | None,
        tokens: int,
        gaps: list[float],
    ) -> None:
        """The step in vLLM's metrics."""
        for stats in self._stats:
            if counted is None and step.scheduler_stats is None:
                stats.midway(step.engine_index, tokens, gaps)
            else:
                if counted is not None:
                    counted.num_generation_tokens += tokens
                    counted.inter_token_latencies_iter += gaps
                stats.record(
                    step.scheduler_stats,
                    counted,
                    self._renderer.stat_mm_cache() if step.scheduler_stats else None,
                    step.engine_index,
                )


def use(llm: Any) -> None:
    """Have this `AsyncLLM` read that way. Before its first request."""
    core = llm.engine_core
    if core.resources.output_queue_task is not None:  # begun with a loop, which has not run since
        core.resources.output_queue_task.cancel()
        core.resources.output_queue_task = llm.output_handler = None
    core.__class__ = Core
    core.inlet = Inlet(llm)
