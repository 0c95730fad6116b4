"""Give Serve its configuration through the dashboard's REST API, and see the application run."""

import os
import sys
import time

import httpx

DEADLINE_SECONDS = float(os.environ.get("DEADLINE_SECONDS", "1800"))
POLL_SECONDS = 2.0


def main() -> str | None:
    """Deploy SERVE_CONFIG at RAY_DASHBOARD_URL; return what went wrong, or None."""
    with open(os.environ["SERVE_CONFIG"], encoding="utf-8") as file:
        config = file.read()
    token = os.environ.get("RAY_AUTH_TOKEN")
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    deadline = time.monotonic() + DEADLINE_SECONDS
    sent, last = False, ""
    with httpx.Client(base_url=os.environ["RAY_DASHBOARD_URL"], headers=headers, timeout=30) as dashboard:
        while time.monotonic() < deadline:
            try:
                if not sent:
                    answer = dashboard.put("/api/serve/applications/", content=config)
                    if 400 <= answer.status_code < 500:
                        return f"the dashboard refuses the configuration ({answer.status_code}): {answer.text}"
                    answer.raise_for_status()
                    sent = True
                applications = dashboard.get("/api/serve/applications/").raise_for_status().json()["applications"]
            except httpx.HTTPError as error:
                state = f"waiting for the dashboard: {error}"
            else:
                states = {name: found["status"] for name, found in applications.items()}
                state = ", ".join(f"{name} {status}" for name, status in states.items()) or "no application yet"
                if states and set(states.values()) == {"RUNNING"}:
                    print(state, flush=True)
                    return None
                failed = [found["message"] for found in applications.values() if found["status"] == "DEPLOY_FAILED"]
                if failed:
                    return f"the application failed to deploy: {'; '.join(failed)}"
            if state != last:
                print(state, flush=True)
                last = state
            time.sleep(POLL_SECONDS)
    return f"not running after {DEADLINE_SECONDS:g} s; last: {last}"


if __name__ == "__main__":
    sys.exit(main())
