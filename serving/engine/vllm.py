"""The real engine: vLLM's AsyncLLM, which schedules in a child process of this one."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from typing import Any, TypeVar

from transformers.models.mllama.image_processing_pil_mllama import get_optimal_tiled_canvas
from vllm import AsyncEngineArgs, TokensPrompt
from vllm.envs import enable_envs_cache
from vllm.exceptions import GracefulHTTPError, VLLMClientError
from vllm.inputs.engine import split_enc_dec_input
from vllm.renderers.inputs.preprocess import parse_model_prompt
from vllm.v1.engine import FinishReason
from vllm.v1.engine.async_llm import AsyncLLM

from serving.catalog import Model
from serving.core import Delta, Finish, Generation, Image, Size, Stages
from serving.engine import Spent, images, inlet, outputs, sampling, tiles, unheard
from serving.engine.adapters import Adapters
from serving.engine.outputs import Output
from serving.engine.pace import Pace
from serving.engine.places import Places
from serving.engine.prompt import Ahead, Prompter, length
from serving.engine.prompted import Prompted
from serving.engine.stats import Stats
from serving.engine.vision import Stopwatch
from serving.errors import (
    ContextExceeded,
    EngineDown,
    EngineFailed,
    InvalidImage,
    InvalidInput,
    Overloaded,
    ServingError,
)
from serving.mllama import reports
from serving.mllama.config import tile_tokens

T = TypeVar("T")
# Finish reasons of vLLM that end an answer well; the others are errors and aborts.
_FINISH = {
    FinishReason.STOP: Finish.STOP,
    FinishReason.REPETITION: Finish.STOP,
    FinishReason.LENGTH: Finish.LENGTH,
}
_REPORTS = 0.5  # seconds from what the scheduler says of itself to the next: a kill loses as much
_QUICK_CHARACTERS = 4096
_CHARACTERS_PER_TOKEN = 4  # of English
# A picture at the limit takes up to 0.7 GB while it is decoded: not too many of them at once.
_PREPARERS = min(4, os.cpu_count() or 1)
# The grammar library puts the time and its source line before its words.
_CPP_LOCATION = re.compile(r"\[[\d:]+\] \S+:\d+: ")


class VllmEngine:
    """Serves one model. Must be made in the process that runs the event loop."""

    def __init__(
        self,
        model: Model,
        traces_endpoint: str = "",
        encoded: Callable[[str, float], None] = lambda request, seconds: None,
    ) -> None:
        """Load the weights; blocks for seconds (small models) to minutes (the published 11B).

        vLLM's own spans go to `traces_endpoint`; OpenTelemetry's variables say how. `encoded` hears
        how long the vision encoder took for each request, if vLLM is to measure it.
        """
        began = time.monotonic()
        self._model = model
        self._prompts = Ahead(Prompter.load(model.checkpoint))
        arguments = _engine_args(model, traces_endpoint)
        # Any in the list counts, whatever that says: it adds a log that nobody here would write.
        loggers = [] if arguments.disable_log_stats else [Stats]
        arguments.disable_log_stats = True
        self._llm = _Llm.from_engine_args(arguments, stat_loggers=loggers)
        self._llm.spent = {}
        outputs.use(self._llm)
        inlet.use(self._llm)
        enable_envs_cache()  # vLLM looks at its variables for every token
        if model.max_images:
            tiles.keep(self._llm)
        config = self._llm.model_config.hf_config
        # What vLLM finds by itself, for every request anew.
        config.decoder_start_token_id = self._llm.renderer.get_dec_start_token_id()
        self._vision = config.vision_config
        self._tile_tokens = tile_tokens(config.vision_config)
        self._image_mark: int = config.image_token_index
        self._defaults = self._llm.model_config.get_diff_sampling_param()
        self._adapters = Adapters(self._llm.add_lora)
        self._stopwatch = Stopwatch(self._llm, encoded)
        self._pace = Pace()
        self._preparers = ThreadPoolExecutor(_PREPARERS, thread_name_prefix="prepare")
        self._places = Places(_PREPARERS)
        self._loading = time.monotonic() - began  # seconds; as long as another will take

    async def generate(
        self, generation: Generation, spent: Spent = unheard
    ) -> AsyncGenerator[Delta, None]:
        """See `Engine.generate`. Closing or cancelling aborts in the engine, at any point."""
        with self._in_our_words(), self._accounted(generation, spent) as told:
            if self._llm.errored:
                raise EngineDown(self._loading)
            if not generation.may_wait and self._waiting() >= 0:
                raise self._overloaded("Capacity temporarily exceeded, please try again.")
            if _is_quick(generation):
                prompt = self._prepare(generation)
                rendered = await self._render(prompt)
            else:
                async with self._places.place(generation.priority):
                    prompt = await self._aside(partial(self._prepare, generation))
                    rendered = await self._render(prompt)
            params = sampling.params(generation, self._defaults)
            prompted = self._counted(prompt["prompt_token_ids"], rendered)
            self._check(prompted.tokens, generation)
            told.append(prompted)
            adapter = await self._adapters.of(generation)
            place = await self._llm.add_request(
                generation.id,
                rendered,
                params,
                lora_request=adapter,
                priority=generation.priority,
                trace_headers=_trace_headers(generation),
            )
            finished = False
            try:
                while not finished:
                    output = place.get_nowait() or await place.get()
                    finished = output.finished
                    if (delta := _delta(output, prompted)) is not None:
                        yield delta
            finally:
                if not (finished or self._llm.errored):
                    await self._llm.abort(place.request_id, internal=True)
            self._pace.left(time.monotonic())

    async def count(self, generation: Generation) -> int:
        """See `Engine.count`."""
        today = datetime.now(UTC).date()
        with self._in_our_words():
            if _is_quick(generation):
                return len(self._prompts.tokens(generation, today))
            text = len(await self._aside(partial(self._prompts.tokens, generation, today)))
            return text + self.size(generation).image_tokens

    async def _aside(self, work: Callable[[], T]) -> T:
        """What it returns, off the loop."""
        return await asyncio.get_running_loop().run_in_executor(self._preparers, work)

    def size(self, generation: Generation) -> Size:
        """What a request will cost: tokens counted if that is quick, else by length."""
        sizes = [images.size(picture) for picture in generation.images]
        tiles = sum(self._tiles(*each) for each in sizes)
        return Size(
            text_tokens=self._count(generation),
            image_tokens=tiles * self._tile_tokens,
            tiles=tiles,
            pixels=sum(width * height for width, height in sizes),
        )

    def _tiles(self, width: int, height: int) -> int:
        """As the picture will be cut; 1 for what cannot be read, which is refused later."""
        side, most = self._vision.image_size, self._vision.max_num_tiles
        rows, columns = get_optimal_tiled_canvas(max(1, height), max(1, width), most, side)
        return int(rows // side) * int(columns // side)

    def _count(self, generation: Generation) -> int:
        if _is_quick(generation):
            return self._prompts.count(generation, datetime.now(UTC).date())
        return length(generation) // _CHARACTERS_PER_TOKEN

    @contextmanager
    def _accounted(self, generation: Generation, spent: Spent) -> Iterator[list[Prompted]]:
        """Tell `spent` what the request had used if the block is given up.

        The block says what the prompt is before its first token.
        """
        told: list[Prompted] = []
        try:
            yield told
        finally:
            if generation.images:
                self._stopwatch.ended(generation.id)
            if (counts := self._llm.spent.pop(generation.id, None)) is not None:
                spent(told[0].usage(*counts))

    async def check_health(self) -> None:
        """Raises: EngineFailed: the engine process is dead or its loop broke."""
        with self._in_our_words():
            await self._llm.check_health()

    async def ended(self) -> None:
        """Returns once the engine process is dead, its loop broke, or `close` was called."""
        if not self._llm.errored:  # before anything was read of it
            await asyncio.wait([self._llm.reading()])

    def close(self) -> None:
        """Stop the engine process and the threads."""
        self._preparers.shutdown(wait=False, cancel_futures=True)
        self._llm.shutdown()

    def _waiting(self) -> int:
        """Requests beyond what runs at once; negative while there is room."""
        unfinished: int = self._llm.output_processor.get_num_unfinished_requests()
        return unfinished - self._llm.vllm_config.scheduler_config.max_num_seqs

    def _overloaded(self, message: str) -> Overloaded:
        """A refusal that says when those who wait now will have begun."""
        return Overloaded(message, self._pace.wait(self._waiting(), time.monotonic()))

    @contextmanager
    def _in_our_words(self) -> Iterator[None]:
        """vLLM's exceptions become ours; cancellation and closing pass through."""
        try:
            yield
        except ServingError:
            raise
        except GracefulHTTPError as error:
            raise self._overloaded(str(error)) from error
        except Exception as error:
            # What vLLM's checks of a request raise is the caller's to mend.
            if isinstance(error, ValueError | VLLMClientError):
                raise InvalidInput(_CPP_LOCATION.sub("", str(error)).strip()) from error
            raise EngineFailed("The engine failed on this request") from error

    def _prepare(self, generation: Generation) -> TokensPrompt:
        """The prompt's tokens and its decoded pictures, checked against the model's limits."""
        pictures = generation.images
        if len(pictures) > self._model.max_images:
            raise InvalidImage(f"reason more than {self._model.max_images} images in a request")
        if generation.sampling.max_tokens < 1:
            raise InvalidInput("max_tokens must be at least 1")
        # The date is in the prompt: UTC, so that replicas agree and share prefixes.
        tokens = self._prompts.tokens(generation, datetime.now(UTC).date())
        self._check(len(tokens), generation)
        prompt = TokensPrompt(prompt_token_ids=tokens)
        if generation.salt:
            prompt["cache_salt"] = generation.salt
        return _with_pictures(prompt, pictures, generation.salt)

    def _check(self, prompt: int, generation: Generation) -> None:
        """Once with the text alone, before pictures cost anything, and once with their tiles."""
        asked = prompt + generation.sampling.max_tokens
        if asked > self._model.context_window:
            raise ContextExceeded(asked, self._model.context_window)

    def _counted(self, tokens: Sequence[int], rendered: Any) -> Prompted:
        """With the pictures' tiles as they were really cut."""
        _, prompt = split_enc_dec_input(rendered)
        pictures = prompt.get("mm_kwargs", {}).get("image", ())
        sizes = [self._tile_tokens * int(each["num_tiles"].data) for each in pictures]
        return Prompted.of(tokens, self._image_mark, sizes)

    async def _render(self, prompt: TokensPrompt) -> Any:
        """vLLM's own preprocessing; tiles and normalises pictures in a thread of its own."""
        parsed = parse_model_prompt(self._llm.model_config, prompt)
        if "multi_modal_data" not in prompt:  # nothing to wait for: two tasks and their turns less
            return self._llm.renderer.process_for_engine(parsed, time.time())
        return await self._llm.renderer.process_for_engine_async(parsed, time.time())


class _Llm(AsyncLLM):
    """vLLM's, which keeps for us what aborted requests had used, by our ids.

    `spent`: tokens of the answer, and those of the prompt's text that were found computed.
    """

    spent: dict[str, tuple[int, int]]
    output_handler: asyncio.Task[None] | None

    def reading(self) -> asyncio.Task[None]:
        """The task that lasts for as long as the engine is heard of, in this loop."""
        self._run_output_handler()
        assert self.output_handler is not None
        return self.output_handler

    def _run_output_handler(self) -> None:
        if self.output_handler is None:
            self.engine_core._ensure_output_queue_task()
            self.output_handler = self.engine_core.resources.output_queue_task

    async def abort(self, request_id: str | Iterable[str], internal: bool = False) -> None:
        """See `AsyncLLM.abort`; `generate` calls it with its own, internal id."""
        if internal and isinstance(request_id, str):
            state = self.output_processor.request_states.get(request_id)
            if state is not None and state.detokenizer is not None:
                # The engine is a step or so ahead; what it does not hand over nobody counts.
                completed = state.detokenizer.num_output_tokens()
                self.spent[state.external_req_id] = completed, state.num_cached_tokens
        await super().abort(request_id, internal)


def _with_pictures(prompt: TokensPrompt, pictures: Sequence[Image], salt: str) -> TokensPrompt:
    if pictures:
        prompt["multi_modal_data"] = {"image": [images.decode(picture) for picture in pictures]}
        # Names for the pictures, cheaper than what vLLM makes itself: digests of all pixels. With
        # the salt, so that nobody finds another's picture encoded already.
        names = [sha256(salt.encode() + picture.data).hexdigest() for picture in pictures]
        prompt["multi_modal_uuids"] = {"image": names}
    return prompt


def _trace_headers(generation: Generation) -> dict[str, str] | None:
    return {"traceparent": generation.traceparent} if generation.traceparent else None


def _engine_args(model: Model, traces_endpoint: str) -> AsyncEngineArgs:
    return AsyncEngineArgs(
        model=str(model.checkpoint),
        served_model_name=model.id,  # in vLLM's metrics, instead of a path
        max_model_len=model.context_window,
        limit_mm_per_prompt={"image": model.max_images},
        mm_processor_cache_gb=0,  # `tiles` has its place
        otlp_traces_endpoint=traces_endpoint or None,
        additional_config={reports.SETTING: _REPORTS},
        # What waits, runs and gives way in the engine does so in the order that admission says.
        **{
            "scheduling_policy": "priority",
            **model.engine,
            "max_num_seqs": model.slots + model.kept,
        },
    )


def _is_quick(generation: Generation) -> bool:
    """Whether preparing takes less than the hop to a thread and back (some 100 us)."""
    if generation.tools or generation.images:
        return False
    return length(generation) < _QUICK_CHARACTERS


def _delta(output: Output, prompted: Prompted) -> Delta | None:
    """What to send for an output: nothing while a character is still incomplete."""
    if not output.text and not output.finished:
        return None
    usage = prompted.usage(output.tokens, output.cached_tokens)
    if output.finish is None:
        return Delta(text=output.text, usage=usage)
    if output.finish not in _FINISH:
        raise EngineFailed(f"The engine ended the request: {output.finish}")
    return Delta(
        text=output.text,
        finish=_FINISH[output.finish],
        usage=usage,
        stop=output.stop if isinstance(output.stop, str) else None,
        stages=_stages(output),
    )


def _stages(output: Output) -> Stages | None:
    """By the engine process's clock, which is the machine's."""
    if (stats := output.metrics) is None or not stats.first_token_ts:
        return None
    return Stages(
        at=stats.queued_ts,
        queue=stats.scheduled_ts - stats.queued_ts,
        prefill=stats.first_token_ts - stats.scheduled_ts,
        decode=stats.last_token_ts - stats.first_token_ts,
    )
