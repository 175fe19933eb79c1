"""pipecat's websocket transport with its Silero detector, a pipeline a session. Runs in an environment of its own."""

import asyncio
import sys

from loguru import logger
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.pipeline.pipeline import Pipeline
from pipecat.processors.audio.vad_processor import VADProcessor
from pipecat.serializers.protobuf import ProtobufFrameSerializer
from pipecat.transports.websocket.server import WebsocketServerParams, WebsocketServerTransport

try:
    from pipecat.pipeline.runner import PipelineRunner
    from pipecat.pipeline.task import PipelineParams, PipelineTask
except ImportError:
    from pipecat.pipeline.worker import PipelineParams
    from pipecat.pipeline.worker import PipelineWorker as PipelineTask
    from pipecat.workers.runner import WorkerRunner as PipelineRunner


async def main(first_port: int, sessions: int) -> None:
    logger.remove()
    logger.add(sys.stderr, level="ERROR")
    runner = PipelineRunner(handle_sigint=False)

    async def session(port: int) -> None:
        serializer = ProtobufFrameSerializer()
        params = WebsocketServerParams(audio_in_enabled=True, audio_in_sample_rate=16_000, serializer=serializer)
        transport = WebsocketServerTransport(params=params, host="127.0.0.1", port=port)
        pipeline = Pipeline([transport.input(), VADProcessor(vad_analyzer=SileroVADAnalyzer(sample_rate=16_000))])
        task = PipelineTask(pipeline, params=PipelineParams(audio_in_sample_rate=16_000), idle_timeout_secs=None)
        await runner.run(task)

    async with asyncio.TaskGroup() as tasks:
        for number in range(sessions):
            tasks.create_task(session(first_port + number))
        await asyncio.sleep(1)
        print(first_port, flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
