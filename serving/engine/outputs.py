"""What vLLM hands over for each token of each request, without what nobody here reads.

vLLM makes two objects of some twenty fields each time: prompts, log probabilities, parallel
samples, adapters. That is a sixth of what its front end does for a token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason, output_processor
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.parallel_sampling import ParentRequest
from vllm.v1.metrics.stats import IterationStats


class Output(RequestOutput):
    """The text since the last one; how many tokens there are so far; why it ended, if it did."""

    def __init__(
        self,
        state: output_processor.RequestState,
        text: str,
        tokens: int,
        finish: FinishReason | None,
        stop: int | str | None,
    ) -> None:
        self.text = text
        self.tokens = tokens
        self.cached_tokens = state.num_cached_tokens
        self.finished = finish is not None
        self.finish = finish
        self.stop = stop
        self.metrics = state.stats

    def add(self, next_output: RequestOutput, aggregate: bool) -> None:
        """Take in the one after this, which came before anybody asked for this."""
        text = self.text + next_output.text
        self.__dict__.update(next_output.__dict__, text=text)


class State(output_processor.RequestState):
    """vLLM's record of a request in its front end: one sample, without log probabilities."""

    sent_tokens_offset: int
    trace_headers: Mapping[str, str] | None

    def make_request_output(
        self,
        new_token_ids: list[int],
        pooling_output: object,
        finish_reason: FinishReason | None,
        stop_reason: int | str | None,
        *rest: object,
        **more: object,
    ) -> Output | None:
        """See `RequestState`: `None` while an answer is to come whole or in larger pieces."""
        finished = finish_reason is not None
        delta = self.output_kind is RequestOutputKind.DELTA
        if not (finished or delta):
            return None
        assert self.detokenizer is not None
        tokens, sent = self.detokenizer.num_output_tokens(), self.sent_tokens_offset
        if not finished and 0 < sent > tokens - self.stream_interval:
            return None
        self.sent_tokens_offset = tokens
        text = self.detokenizer.get_next_output_text(finished, delta)
        return Output(self, text, tokens, finish_reason, stop_reason)

    def advance(self, tokens: list[int], at: float) -> float | None:
        """These tokens, which neither begin nor end the answer, came at that moment; seconds since
        those before, if anybody counts."""
        assert self.detokenizer is not None
        assert self.queue is not None
        self.detokenizer.update(tokens, False)
        output = self.make_request_output(tokens, None, None, None)
        if output is not None:
            self.queue.put(output)
        return None if self.stats is None else self.count(len(tokens), at)

    def count(self, tokens: int, at: float) -> float:
        """So many more came at that moment; seconds since those before."""
        assert self.stats is not None
        self.stats.num_generation_tokens += tokens
        gap = at - self.stats.last_token_ts
        self.stats.last_token_ts = at
        return gap


def is_midway(state: State, output: EngineCoreOutput) -> bool:
    """Whether there is nothing to it but some more tokens of an answer that goes on."""
    return (
        output.finish_reason is None
        and not state.is_prefilling
        and not state.detokenizer.stop
        and output.events is None
        and not output.num_nans_in_logits
    )


class Handover(output_processor.RequestOutputCollector):
    """vLLM's place between its loop and who reads, who is woken by a future and not by an event."""

    output: RequestOutput | Exception | None
    waiter: asyncio.Future[None] | None = None

    def put(self, output: RequestOutput | Exception) -> None:
        """See `RequestOutputCollector`: what nobody has asked for yet takes in what comes."""
        if self.output is None or isinstance(output, Exception):
            self.output = output
            if self.waiter is not None and not self.waiter.done():
                self.waiter.set_result(None)
        elif isinstance(self.output, Output):
            self.output.add(output, self.aggregate)

    async def get(self) -> RequestOutput:
        """See `RequestOutputCollector`. For one reader."""
        if self.output is None:
            self.waiter = asyncio.get_running_loop().create_future()
            await self.waiter
        output = self.get_nowait()
        assert output is not None
        return output

    def get_nowait(self) -> RequestOutput | None:
        """See `RequestOutputCollector`."""
        output, self.output = self.output, None
        if isinstance(output, Exception):
            raise output
        return output


class _Processor(output_processor.OutputProcessor):
    def add_request(
        self,
        request: EngineCoreRequest,
        prompt: str | None,
        parent_req: ParentRequest | None = None,
        request_index: int = 0,
        queue: output_processor.RequestOutputCollector | None = None,
    ) -> None:
        super().add_request(request, prompt, parent_req, request_index, queue)
        if queue is not None:
            queue.__class__ = Handover
        state = self.request_states[request.request_id]
        state.__class__ = State
        # Stays here: the engine would send it back with each token.
        state.trace_headers, request.trace_headers = request.trace_headers, None

    def do_tracing(
        self,
        engine_core_output: EngineCoreOutput,
        req_state: output_processor.RequestState,
        iteration_stats: IterationStats | None,
    ) -> None:
        assert isinstance(req_state, State)
        if req_state.trace_headers:
            engine_core_output.trace_headers = req_state.trace_headers
            super().do_tracing(engine_core_output, req_state, iteration_stats)

    def _update_stats_from_output(
        self,
        req_state: output_processor.RequestState,
        engine_core_output: EngineCoreOutput,
        engine_core_timestamp: float | None,
        iteration_stats: IterationStats | None,
    ) -> None:
        """See `OutputProcessor`; of a token in the midst of an answer there is little to say."""
        if iteration_stats is None:
            return
        output = engine_core_output
        if req_state.is_prefilling or output.events is not None or output.num_nans_in_logits:
            super()._update_stats_from_output(
                req_state, output, engine_core_timestamp, iteration_stats
            )
            return
        assert isinstance(req_state, State)
        assert engine_core_timestamp is not None
        count = len(output.new_token_ids)
        iteration_stats.num_generation_tokens += count
        gap = req_state.count(count, engine_core_timestamp)
        iteration_stats.inter_token_latencies_iter.append(gap)


def use(llm: AsyncLLM) -> None:
    """Have this one hand over no more than that. Before its first request."""
    llm.output_processor.__class__ = _Processor
