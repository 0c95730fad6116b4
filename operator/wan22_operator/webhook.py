"""Serves the webhooks over TLS, in every replica, and keeps their certificate and the caBundle up to date."""

import asyncio
import base64
import datetime
import json
import logging
import ssl
import tempfile
import urllib.parse
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from wan22_operator import admission, metrics
from wan22_operator.api_server import Json
from wan22_operator.certificates import Certificates, current
from wan22_operator.json_patch import if_unchanged
from wan22_operator.kube import ConflictError, Kube
from wan22_operator.off_loop import off_loop
from wan22_operator.settings import Settings
from wan22_operator.snapshots import Snapshot, read

CHECK_SECONDS = 30
"""How often the certificate and the caBundle are checked."""
CONFIGURATIONS = ("mutatingwebhookconfigurations", "validatingwebhookconfigurations")

log = logging.getLogger(__name__)


class WebhookServer:
    """Answers admission requests at ``/mutate`` and ``/validate``."""

    def __init__(self, kube: Kube, settings: Settings) -> None:
        self._kube = kube
        self._settings = settings
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._loaded: Certificates | None = None
        self.serving = False
        """True once its port is open."""

    async def run(self) -> None:
        """Serve until cancelled."""
        app = web.Application(client_max_size=8 * 1024**2)
        app.add_routes([web.post("/mutate", self._mutate), web.post("/validate", self._validate)])
        runner = web.AppRunner(app, handle_signals=False, access_log=None)
        await runner.setup()
        try:
            while True:
                try:
                    await self._renew_certificate()
                    if not self.serving:
                        host, port = self._settings.webhook_host, self._settings.webhook_port
                        await web.TCPSite(runner, host, port, ssl_context=self._context, reuse_port=True).start()
                        self.serving = True
                        log.info("webhooks are served on port %d", port)
                    await self._fill_ca_bundle()
                    pause: float = CHECK_SECONDS
                except Exception as error:
                    log.warning("webhook certificate: %s; trying again", error or repr(error))
                    pause = 2
                await asyncio.sleep(pause)
        finally:
            await runner.cleanup()

    async def _mutate(self, request: web.Request) -> web.Response:
        review = await request.json()
        new, old = self._objects(review["request"])
        try:
            patch = await off_loop(admission.mutate, new, old) if new else []
        except TimeoutError as error:
            # The validating webhook refuses such a text; the reconcile applies the annotations of one that got in.
            log.warning("admission: %s", error)
            patch = []
        metrics.ADMISSIONS.labels("mutate", "patched" if patch else "unchanged").inc()
        answer: Json = {"uid": review["request"]["uid"], "allowed": True}
        if patch:
            answer |= {"patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(patch).encode()).decode()}
        return _respond(review, answer)

    async def _validate(self, request: web.Request) -> web.Response:
        review = await request.json()
        new, old = self._objects(review["request"])
        answer: Json = {"uid": review["request"]["uid"], "allowed": True}
        try:
            if new:
                await off_loop(admission.validate, new, old)
        except (admission.RefusedError, TimeoutError) as error:
            answer |= {"allowed": False, "status": {"code": 422, "reason": "Invalid", "message": str(error)}}
        metrics.ADMISSIONS.labels("validate", "allowed" if answer["allowed"] else "refused").inc()
        return _respond(review, answer)

    def _objects(self, request: Mapping[str, Any]) -> tuple[Snapshot | None, Snapshot | None]:
        """Return the object of a request as it will be and as it was; none if another operator follows it."""
        kind = request["kind"]["kind"]
        new, old = (read(kind, body) if body else None for body in (request.get("object"), request.get("oldObject")))
        return (new, old) if new and self._settings.follows(new) else (None, None)

    async def _renew_certificate(self) -> None:
        settings = self._settings
        path = f"/api/v1/namespaces/{settings.pod_namespace}/secrets/{settings.webhook_secret}"
        secret = await self._kube.get(path)
        if secret is None:
            raise LookupError(f"Secret {settings.pod_namespace}/{settings.webhook_secret} is missing; run helm upgrade")
        have = Certificates.from_secret(secret.get("data"))
        good = current(have, self._hosts(), datetime.datetime.now(datetime.UTC))
        if good != have:
            version = secret["metadata"]["resourceVersion"]
            body = {"metadata": {"resourceVersion": version}, "data": good.secret_data()}
            try:
                await self._kube.request("PATCH", path, body, patch="merge")
                log.info("webhook certificate renewed")
            except ConflictError:
                return await self._renew_certificate()
        if good != self._loaded:
            self._load(good)
        return None

    def _hosts(self) -> list[str]:
        settings = self._settings
        service = f"{settings.webhook_service}.{settings.pod_namespace}.svc"
        host = urllib.parse.urlsplit(settings.webhook_url).hostname
        return [service, *([host] if host else [])]

    def _load(self, certificates: Certificates) -> None:
        with tempfile.NamedTemporaryFile("w") as chain:
            chain.write(certificates.server + certificates.server_key)
            chain.flush()
            self._context.load_cert_chain(chain.name)
        self._loaded = certificates

    async def _fill_ca_bundle(self) -> None:
        """Write the CA into both webhook configurations, unless they have it."""
        assert self._loaded is not None
        bundle = base64.b64encode(self._loaded.ca.encode()).decode()
        for plural in CONFIGURATIONS:
            path = f"/apis/admissionregistration.k8s.io/v1/{plural}/{self._settings.webhook_configuration}"
            configuration = await self._kube.get(path)
            if configuration is None:
                log.warning("%s %s is missing; run helm upgrade", plural, self._settings.webhook_configuration)
                continue
            webhooks = configuration.get("webhooks") or []
            stale = [i for i, hook in enumerate(webhooks) if hook["clientConfig"].get("caBundle") != bundle]
            if stale:
                patch = if_unchanged(configuration["metadata"]["resourceVersion"]) + [
                    {"op": "add", "path": f"/webhooks/{index}/clientConfig/caBundle", "value": bundle}
                    for index in stale
                ]
                await self._kube.request("PATCH", path, patch)


def _respond(review: Json, answer: Json) -> web.Response:
    return web.json_response({"apiVersion": review["apiVersion"], "kind": "AdmissionReview", "response": answer})
