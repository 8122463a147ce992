"""Settings of the pool's own processes, from the environment or `.env`; built once, in `__main__`.

Names are the environment's names in lower case. `.env.example` and the README's table have one
line for each, checked by a test.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from nodepool.domain.nodes.history import HistoryRules
from nodepool.domain.nodes.push_addresses import Network, parse_networks
from nodepool.domain.resources import Overcommit
from nodepool.domain.tasks.package_rules import PackageLimits
from nodepool.settings_balancer import BalancerSettings
from nodepool.settings_bounds import BoundsSettings
from nodepool.settings_broker import BrokerSettings
from nodepool.settings_notify import NotifySettings

MIN_SECRET_LENGTH = 32
_SQLITE_FILE = "sqlite:///"
_EXAMPLE_SECRETS = frozenset({"change-me", "secret", "your-secret-key", "your_secret_key_here"})


class Settings(BrokerSettings, BalancerSettings, BoundsSettings, NotifySettings):
    """Every setting of gateway and dispatcher. Sizes are bytes and times seconds unless the name says."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True, hide_input_in_errors=True)

    grpc_server_host: str = Field("127.0.0.1", description="address the gateway listens on")
    grpc_server_port: int = Field(
        50051, ge=0, le=65535, description="port the gateway listens on; 0 picks one"
    )
    grpc_max_message_mb: int = Field(100, ge=1, le=1024, description="largest gRPC message, MiB")
    grpc_max_calls: int = Field(
        2000,
        ge=16,
        description="calls open at one moment; those without a token have a quarter of it",
    )
    grpc_max_calls_per_address: int = Field(
        500, ge=4, description="the same of one address; those without a token have a quarter of it"
    )
    grpc_max_calls_per_account: int = Field(200, ge=1, description="calls of one account open at one moment")
    grpc_max_streams_per_account: int = Field(64, ge=1, description="of these uploads, downloads and watches")
    grpc_max_connections: int = Field(2000, ge=8, description="connections open at one moment")
    grpc_max_connections_per_address: int = Field(
        500, ge=1, description="connections of one address open at one moment"
    )
    grpc_stall_seconds: float = Field(
        60.0, gt=0, description="a stream on which nothing comes, or nothing is read, for this long ends"
    )
    grpc_memory_mb: int = Field(
        192, ge=8, description="memory for packages, results and outputs of all calls at one moment, MiB"
    )
    grpc_threads: int = Field(
        20, ge=1, le=200, description="threads for what is cheap; one account gets three quarters at most"
    )
    grpc_keepalive_seconds: int = Field(5, ge=5, description="idle time before the gateway pings a client")
    grpc_keepalive_timeout_seconds: int = Field(
        4, ge=1, description="a ping unanswered for this long ends the connection"
    )
    grpc_tls_cert_file: Path | None = Field(
        None, description="certificate chain (PEM); with the key turns TLS on"
    )
    grpc_tls_key_file: Path | None = Field(None, description="private key (PEM) of the certificate")
    allow_insecure_plaintext: bool = Field(
        False,
        description="serve without TLS beyond loopback: tokens and code can be read on the way",
    )
    allow_anonymous_reads: bool = Field(
        False, description="PollTaskStatus and GetNodeList without a token, for clients that send none"
    )

    metrics_host: str = Field(
        "127.0.0.1", description="address that gateway and dispatcher serve /metrics on, in plain text"
    )
    gateway_metrics_port: int = Field(
        9464, ge=0, le=65535, description="port of the gateway's /metrics; 0: none are served"
    )
    dispatcher_metrics_port: int = Field(
        9465, ge=0, le=65535, description="port of the dispatcher's /metrics; 0: none are served"
    )

    db_path: Path = Field(Path("./users.db"), description="SQLite database file")
    database_url: str = Field("", description="SQLAlchemy URL, postgresql+psycopg://…; wins over DB_PATH")

    jwt_secret_key: str = Field(
        "", description="secret that signs tokens, 32 characters or more; empty: made and kept"
    )
    token_expiration_hours: float = Field(24.0, gt=0, le=24 * 365, description="lifetime of a token")
    storage_key: str = Field(
        "",
        description="secret that encrypts packages, results and users' secrets; empty: made and kept, and no "
        "secrets are taken",
    )
    task_storage_path: Path = Field(
        Path("./task_storage"), description="folder of packages, results and logs"
    )

    max_file_size: int = Field(10 * 1024 * 1024, ge=1024, description="largest package, bytes")
    max_unpacked_bytes: int = Field(512 << 20, ge=1024, description="largest unpacked package, bytes")
    max_package_entries: int = Field(
        10_000, ge=1, description="most files and folders of a package, with those that only paths name"
    )
    max_package_ratio: int = Field(200, ge=1, description="most that a package may grow when unpacked")
    max_result_bytes: int = Field(95 << 20, ge=1024, description="largest result ZIP, bytes")
    max_flow_inputs_mb: int = Field(
        1024, ge=1, description="most that one run is given of results of other steps of its flow, MiB packed"
    )
    max_output_bytes: int = Field(10 << 20, ge=1024, description="most output kept of one attempt, bytes")
    max_live_output_bytes: int = Field(
        1 << 20, ge=1024, description="most output kept in Redis of a running attempt, bytes"
    )
    max_live_output_mb: int = Field(
        128,
        ge=1,
        description="most live output kept in Redis of all attempts together, MiB; at most a quarter of its "
        "memory. Beyond it the oldest is dropped: results have all of it",
    )
    max_workdir_bytes: int = Field(
        2 << 30, ge=1 << 20, description="largest working directory of a task, bytes"
    )
    tmpfs_bytes: int = Field(64 << 20, ge=1 << 20, description="size of a task's /tmp, bytes")
    warm_sandbox_tasks: int = Field(
        0,
        ge=0,
        le=100_000,
        description="tasks of one owner that one sandbox runs at most; 0: each has a sandbox of its own",
    )
    warm_sandbox_idle_minutes: float = Field(
        10.0, gt=0, le=1440, description="so long a sandbox waits for its owner's next task"
    )
    pids_limit: int = Field(256, ge=8, description="most processes and threads of a task")
    default_task_memory_mb: int = Field(512, ge=32, description="memory of a task that names none, MiB")

    default_image: str = Field("python:3.12-slim", description="image of a task that names none")
    allowed_images: str = Field("", description="more images that tasks may name, comma separated")
    allow_task_network: bool = Field(False, description="tasks may ask for the network")
    default_max_minutes: int = Field(60, ge=1, description="longest run of a task that does not say, minutes")
    max_minutes_limit: int = Field(1440, ge=1, description="longest run a task may ask for, minutes")
    max_attempts: int = Field(5, ge=1, le=50, description="lost attempts after which a task fails")
    max_waiting_tasks_per_user: int = Field(100_000, ge=1, description="unfinished tasks a user may have")

    report_period_seconds: float = Field(3.0, gt=0, description="how often an agent reports")
    node_late_seconds: float = Field(
        15.0,
        gt=0,
        description="a node that could be heard and was not for this long has lost its attempts",
    )
    lease_seconds: float = Field(
        12.0,
        gt=0,
        description="an agent that is not heard for this long ends exclusive runs; below NODE_LATE_SECONDS",
    )
    outage_grace_minutes: float = Field(
        10.0,
        ge=0,
        description="an agent that reaches no part of the pool keeps other runs so long; 0: LEASE_SECONDS",
    )
    sweep_period_seconds: float = Field(
        2.0, gt=0, description="how often the dispatcher looks for what was left behind"
    )
    tier_ageing_seconds: float = Field(
        600.0, gt=0, description="a waiting task is served one trust tier earlier for every such time"
    )
    priority_ageing_seconds: float = Field(
        60.0, gt=0, description="a waiting task gains one step of priority for every such time"
    )
    fair_share_half_life_seconds: float = Field(
        3600.0, gt=0, description="what a user has used counts half after this time"
    )
    region_patience_seconds: float = Field(
        30.0, ge=0, description="a task that only prefers its region takes another one after this time"
    )
    reclaim_after_seconds: float = Field(
        60.0, ge=0, description="a run is given what it uses and a margin after this time; 0: never"
    )
    reclaim_margin: float = Field(
        0.25, ge=0, le=4, description="what a run is left above its measured use, as a share of it"
    )
    pressure_memory_percent: float = Field(
        95.0, gt=0, le=100, description="measured memory of a node above which tasks are evicted from it"
    )
    probation_after: int = Field(
        3, ge=1, description="attempts lost or refused in a row after which a node gets one task at a time"
    )
    history_half_life_seconds: float = Field(
        7 * 86400.0, gt=0, description="how a node did counts half after this time"
    )
    push_to_nodes: bool = Field(
        False, description="give work to nodes without an agent, which the pool calls on hostname and port"
    )
    push_allowed_networks: str = Field(
        "",
        description="networks (CIDR, comma separated) of such nodes besides the address they register from, "
        "and of webhooks besides the public internet",
    )
    push_timeout_seconds: float = Field(
        10.0, gt=0, description="how long such a node may take to answer that it has taken a task"
    )
    agent_events: bool = Field(True, description="agents send Celery events, so that Flower shows them")
    flower_memory_mb: int = Field(
        512,
        ge=128,
        description="most memory of Flower, MiB; before it takes more it ends, to be started again",
    )

    cpu_overcommit: float = Field(1.5, ge=1, le=16, description="CPU reserved on a node over its total")
    memory_overcommit: float = Field(
        1.0, ge=0.5, le=4, description="memory reserved on a node over its total"
    )
    gpu_overcommit: float = Field(1.0, ge=1, le=16, description="GPU score reserved on a node over its total")
    gpu_memory_overcommit: float = Field(
        1.0, ge=0.5, le=4, description="GPU memory reserved on a node over its total"
    )

    platform_fee_percent: int = Field(
        0, ge=0, le=50, description="share of every payment that the pool keeps, percent"
    )
    admin_username: str = Field(
        "", description="name of the first admin, made at the start when it is not there"
    )
    admin_password: str = Field("", description="password of the first admin")
    admin_reads_logs: bool = Field(
        False, description="admins may read what tasks of others said, with a reason that is kept"
    )
    audit_share: float = Field(
        0.1, ge=0, le=1, description="share of low-trust tasks that are run a second time to compare results"
    )
    audit_share_least: float = Field(
        0.01, ge=0, le=1, description="what that share falls to for a node that has proven itself"
    )
    spot_check_share: float = Field(
        0.01, ge=0, le=1, description="share of results of nodes above low trust that are checked likewise"
    )
    check_owners_least: int = Field(
        5,
        ge=1,
        description="owners who could run a check, below which it raises nobody's score",
    )
    probe_hours: float = Field(
        24.0,
        ge=0,
        description="hours between a node's tasks with a known answer; 0: none, its word on Docker is taken",
    )
    newcomer_credit_score: int = Field(
        50,
        ge=0,
        le=1000,
        description="credit score of a new user; below 50 in a pool that strangers can join",
    )
    newcomer_balance_cpt: int = Field(
        1000, ge=0, description="CPT in the account of a new user; 0 in a pool that strangers can join"
    )
    bcrypt_rounds: int = Field(12, ge=4, le=16, description="work factor of password hashes")

    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR")
    log_json: bool = Field(False, description="one JSON object a line instead of text")

    @field_validator("jwt_secret_key")
    @classmethod
    def _secret_is_not_guessable(cls, secret: str) -> str:
        if secret and (len(secret) < MIN_SECRET_LENGTH or secret.casefold() in _EXAMPLE_SECRETS):
            raise ValueError(
                f"JWT_SECRET_KEY must have {MIN_SECRET_LENGTH} characters or more and not be an example's; "
                "leave it empty and the pool makes and keeps one"
            )
        return secret

    @field_validator("push_allowed_networks")
    @classmethod
    def _networks_are_networks(cls, text: str, info: ValidationInfo) -> str:
        parse_networks(text, setting=str(info.field_name).upper())
        return text

    @model_validator(mode="after")
    def _times_fit(self) -> Settings:
        if self.lease_seconds >= self.node_late_seconds:
            raise ValueError(
                "LEASE_SECONDS must be below NODE_LATE_SECONDS: a node stops before its work is given away"
            )
        if self.report_period_seconds * 2 > self.lease_seconds:
            raise ValueError("REPORT_PERIOD_SECONDS must be at most half of LEASE_SECONDS")
        if bool(self.grpc_tls_cert_file) != bool(self.grpc_tls_key_file):
            raise ValueError("GRPC_TLS_CERT_FILE and GRPC_TLS_KEY_FILE go together")
        if self.proxy_protocol_port and self.proxy_protocol_port == self.grpc_server_port:
            raise ValueError("PROXY_PROTOCOL_PORT and GRPC_SERVER_PORT must be two ports")
        if self.default_max_minutes > self.max_minutes_limit:
            raise ValueError("DEFAULT_MAX_MINUTES must be at most MAX_MINUTES_LIMIT")
        return self

    @cached_property
    def outage_grace_seconds(self) -> float:
        """0 where every run is ended after the lease."""
        return max(self.outage_grace_minutes * 60, self.lease_seconds) if self.outage_grace_minutes else 0.0

    @cached_property
    def effective_database_url(self) -> str:
        return self.database_url or f"sqlite:///{self.db_path}"

    @cached_property
    def watched_folders(self) -> dict[str, Path]:
        """Whose disks fill up: that of files, and SQLite's. What a server keeps is on its own machine."""
        folders = {"storage": self.task_storage_path}
        url = self.effective_database_url
        if url.startswith(_SQLITE_FILE):
            folders["database"] = Path(url.removeprefix(_SQLITE_FILE).partition("?")[0]).parent
        return folders

    @cached_property
    def image_allow_list(self) -> tuple[str, ...]:
        more = (image.strip() for image in self.allowed_images.split(","))
        return tuple(dict.fromkeys([self.default_image, *(image for image in more if image)]))

    @cached_property
    def push_networks(self) -> tuple[Network, ...]:
        return parse_networks(self.push_allowed_networks)

    @cached_property
    def package_limits(self) -> PackageLimits:
        return PackageLimits(self.max_unpacked_bytes, self.max_package_entries, self.max_package_ratio)

    @cached_property
    def history_rules(self) -> HistoryRules:
        return HistoryRules(
            half_life_seconds=self.history_half_life_seconds, probation_after=self.probation_after
        )

    @cached_property
    def overcommit(self) -> Overcommit:
        return Overcommit(
            self.cpu_overcommit, self.memory_overcommit, self.gpu_overcommit, self.gpu_memory_overcommit
        )
