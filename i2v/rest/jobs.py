"""The addresses of jobs: submit, list, look, cancel, follow, fetch. What a job may be is the service's business."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from i2v.errors import InputError, UnknownJobError
from i2v.jobs.folder import if_there
from i2v.jobs.model import JobState
from i2v.rest.answers import JobAnswer, JobsAnswer, job_answer
from i2v.rest.events import next_revision, stream
from i2v.rest.fields import field_schemas, request_values
from i2v.rest.refusals import ErrorAnswer, Refusal
from i2v.rest.upload import MAX_TEXT_BYTES, Form, read_form
from i2v.service import Service, Snapshot

__all__ = ["JobEndpoints"]

_MOST_JOBS = 100
_MOST_WAIT_S = 60.0
_TYPES = {"mp4": "video/mp4", "gif": "image/gif", "webp": "image/webp", "png": "application/zip"}
_STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def _refused(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorAnswer} for status in statuses}


def _form_schema() -> dict[str, Any]:
    image = {"type": "string", "format": "binary", "description": "the start picture: PNG, JPEG, WebP or GIF"}
    fields = {"image": image} | field_schemas()
    schema = {"type": "object", "required": ["image", "prompt"], "properties": fields}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


class JobEndpoints:
    """Each method answers one address."""

    def __init__(self, service: Service):
        self._service = service

    def add_to(self, router: APIRouter) -> None:
        """Give each method its address."""
        jobs, one = "/api/v1/jobs", "/api/v1/jobs/{job_id}"
        add, unknown = router.add_api_route, _refused(404, 422, 503)
        faults = _refused(400, 409, 413, 422, 503)
        add(jobs, self.submit, methods=["POST"], status_code=201, responses=faults, openapi_extra=_form_schema())
        add(jobs, self.list, methods=["GET"], responses=_refused(422, 503))
        add(one, self.look, methods=["GET"], responses=unknown)
        add(one, self.cancel, methods=["DELETE"], responses=unknown | {202: {"model": JobAnswer}})
        streamed: dict[int | str, dict[str, Any]] = {
            200: {"model": JobAnswer, "content": {"text/event-stream": {}}},
            204: {"description": "The job is over, and its last revision is the one that was seen."},
        }
        add(one + "/events", self.follow, methods=["GET"], response_model=None, responses=streamed | unknown)
        add(
            one + "/files/{kind}",
            self.file,
            methods=["GET"],
            response_class=FileResponse,
            responses=_refused(404, 409, 422),
        )
        add(one + "/poster", self.poster, methods=["GET"], response_class=FileResponse, responses=_refused(404, 422))

    async def submit(self, request: Request, response: Response) -> JobAnswer:
        """Queue a job: a form with the picture as `image` and the request's fields as texts."""
        async with read_form(request) as form:
            snapshot = await run_in_threadpool(self._submit, form)
        answer = job_answer(snapshot, request.scope.get("root_path", ""))
        response.headers["Location"] = answer.url
        return answer

    def _submit(self, form: Form) -> Snapshot:
        values = request_values(form.texts)
        if not values.get("prompt"):
            raise InputError("there is no prompt", "Say what should happen.", "prompt")
        with form.picture_file(self._service.settings.home / "tmp") as picture:
            job = self._service.submit(values, picture, form.picture_name)
        return self._found(job.id)

    def list(
        self,
        request: Request,
        limit: Annotated[int, Query(ge=1, le=_MOST_JOBS)] = 20,
        offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
        q: Annotated[
            str, Query(max_length=MAX_TEXT_BYTES, description="words of the prompt or the picture's name")
        ] = "",
        state: Annotated[list[JobState] | None, Query(description="may be repeated")] = None,
    ) -> JobsAnswer:
        """List jobs, newest first, of the page and of the command line."""
        root = request.scope.get("root_path", "")
        jobs = [job_answer(snapshot, root) for snapshot in self._service.history(limit, offset, q, state)]
        return JobsAnswer(jobs=jobs, total=self._service.count_jobs(q, state), limit=limit, offset=offset)

    def look(self, request: Request, job_id: str) -> JobAnswer:
        """Look at one job as it stands now."""
        return job_answer(self._found(job_id), request.scope.get("root_path", ""))

    def cancel(
        self,
        request: Request,
        response: Response,
        job_id: str,
        keep: Annotated[bool, Query(description="stop a running job and make a video of what there is so far")] = False,
    ) -> JobAnswer:
        """Cancel a job; one that is over stays as it is. 202 while the worker has yet to confirm."""
        job = self._service.stop_and_keep(job_id) if keep else self._service.cancel(job_id)
        response.status_code = 202 if job.state in (JobState.CANCELLING, JobState.STOPPING) else 200
        return self.look(request, job_id)

    async def follow(
        self,
        request: Request,
        job_id: str,
        wait: Annotated[float | None, Query(ge=0, le=_MOST_WAIT_S, description="seconds: answer once, as JSON")] = None,
        since: Annotated[str, Query(max_length=64, description="the revision that is already known")] = "",
        last_event_id: Annotated[str, Header(max_length=64, description="the same, from a browser")] = "",
    ) -> Response:
        """Follow a job to its end by server-sent events, each a job in JSON; or, with `wait`, until there is news."""

        def read() -> JobAnswer | None:
            snapshot = self._service.snapshot(job_id)
            return job_answer(snapshot, request.scope.get("root_path", "")) if snapshot else None

        seen = since or last_event_id
        now = await run_in_threadpool(read)
        if now is None:
            raise _unknown(job_id)
        if wait is not None:
            answer = await next_revision(read, seen, wait)
            if answer is None:
                raise _unknown(job_id)
            return Response(answer.model_dump_json(), media_type="application/json")
        if now.is_over and now.revision == seen:
            return Response(status_code=204)  # to a browser that connects again: there will be no more
        return StreamingResponse(stream(read, seen), headers=_STREAM_HEADERS, media_type="text/event-stream")

    def file(self, job_id: str, kind: str) -> FileResponse:
        """Fetch a finished file: mp4, or one of the formats that were asked for."""
        snapshot = self._found(job_id)
        path = snapshot.file(kind)  # looked up among the job's own files, never made into a path
        if path is not None:
            return _download(path, _TYPES.get(kind, "application/octet-stream"))
        if not snapshot.is_over:
            raise Refusal(409, f"the job is {snapshot.job.state}, and has no files yet", "Wait until it is done.")
        present = [name for name in snapshot.result.files if snapshot.file(name)]
        raise Refusal(404, "the job has no such file", f"It has: {', '.join(present) or 'none'}.")

    def poster(self, job_id: str) -> FileResponse:
        """Fetch a picture of the finished clip."""
        path = if_there(self._found(job_id).folder.poster)
        if path is None:
            raise Refusal(404, "the job has no poster yet", "Wait until it is done.")
        return FileResponse(path, media_type="image/jpeg")

    def _found(self, job_id: str) -> Snapshot:
        snapshot = self._service.snapshot(job_id)
        if snapshot is None:
            raise _unknown(job_id)
        return snapshot


def _download(path: Path, media_type: str) -> FileResponse:
    return FileResponse(path, media_type=media_type, filename=path.name)


def _unknown(job_id: str) -> UnknownJobError:
    return UnknownJobError(f"there is no job {job_id[:64]}", "It may have been deleted.")
