"""A Prometheus that scrapes parts of the lab every second."""

import json
import urllib.parse
import urllib.request

import yaml

from .ports import free_port
from .process import Server, program


class Prometheus(Server):
    """targets: {job: (host:port, path)}; rules: files. Nothing of it leaves loopback."""

    name = "prometheus"

    def __init__(self, folder, targets, rules=()):
        super().__init__(folder)
        self.port = free_port()
        self.config = self.folder / "prometheus.yml"
        self.config.write_text(yaml.safe_dump({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rule) for rule in rules],
            "scrape_configs": [
                {"job_name": job, "metrics_path": path, "static_configs": [{"targets": [address]}]}
                for job, (address, path) in targets.items()
            ],
        }))  # fmt: skip

    def command(self):
        return [program("prometheus"), f"--config.file={self.config}", f"--storage.tsdb.path={self.folder}/data",
                f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"]  # fmt: skip

    def _get(self, path, **parameters):
        url = f"http://127.0.0.1:{self.port}{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=30) as answer:
            return answer.read()

    def ready(self):
        try:
            return bool(self._get("/-/ready"))
        except OSError:
            return False

    def query(self, expression):
        """What an instant query finds: [{"metric": {label: value}, "value": [time, text]}]; an error is an HTTPError."""
        return json.loads(self._get("/api/v1/query", query=expression))["data"]["result"]

    def names(self):
        """Of every metric that there is."""
        return set(json.loads(self._get("/api/v1/label/__name__/values"))["data"])
