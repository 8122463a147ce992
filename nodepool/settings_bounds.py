"""Settings that bound what one account, one address and one node may ask of the pool.

Part of nodepool.settings.Settings, which says how they are read.
"""

from __future__ import annotations

from functools import cached_property

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings

from nodepool.domain.heavy_limits import HeavyLimits
from nodepool.domain.nodes.claimed_resources import ClaimRules
from nodepool.domain.nodes.push_addresses import Network, parse_networks
from nodepool.domain.resources import Resources
from nodepool.domain.tasks.retention import Retention


class BoundsSettings(BaseSettings):
    """Names end with their unit, or are counts."""

    password_threads: int = Field(
        2, ge=1, le=32, description="niced threads that hash passwords, for all accounts in turns"
    )
    heavy_processes: int = Field(
        2,
        ge=1,
        le=64,
        description="niced processes that check packages and compare results, for all accounts in turns",
    )
    heavy_cpu_seconds: int = Field(
        60, ge=1, le=3600, description="processor time of one such job before it is ended"
    )
    heavy_memory_mb: int = Field(512, ge=128, description="memory of one such process, MiB")
    heavy_waiting_per_account: int = Field(
        16, ge=1, description="such jobs that may wait for one account; a hundred times as many in all"
    )
    login_lock_after: int = Field(
        5, ge=1, description="wrong passwords in a row after which an account is locked for a while"
    )
    login_lock_seconds: float = Field(
        30.0, ge=0, description="first such while; each further wrong password doubles it, up to an hour"
    )
    login_attempts_per_minute: int = Field(
        30,
        ge=1,
        description="wrong passwords a minute from one address, and for one name; registrations from one",
    )
    logins_per_minute_per_address: int = Field(
        300, ge=1, description="logins and registrations a minute from one address, right ones too"
    )
    calls_per_minute_per_address: int = Field(
        120_000, ge=1, description="calls of all kinds a minute from one address"
    )
    rate_limit_trusted_networks: str = Field(
        "",
        description="networks (CIDR, comma separated) that stand for many people, such as a web client's "
        "server: not limited by address",
    )
    reads_per_minute: int = Field(6000, ge=1, description="reading calls a minute of one account")
    fetches_per_minute: int = Field(
        1200, ge=1, description="calls for results, lists and explanations a minute of one account"
    )
    watches_per_minute: int = Field(1200, ge=1, description="calls to watch tasks a minute of one account")
    changes_per_minute: int = Field(
        3000, ge=1, description="stops, transfers and the like a minute of one account"
    )
    submits_per_minute: int = Field(
        1800, ge=1, description="uploads of tasks a minute of one account; a refused package costs a tenth"
    )
    password_changes_per_minute: int = Field(
        10, ge=1, description="changes of password a minute of one account"
    )
    node_registrations_per_minute: int = Field(
        300, ge=1, description="registrations and enrolments of nodes a minute of one account"
    )
    node_calls_per_minute: int = Field(60_000, ge=1, description="calls of its nodes a minute of one account")
    max_node_cpu_cores: int = Field(1024, ge=1, description="most cores that a node may claim to have")
    max_node_cpu_score: int = Field(4_000_000, ge=1, description="highest cpu_score that a node may claim")
    max_node_memory_gb: int = Field(16_384, ge=1, description="most memory that a node may claim, GiB")
    max_node_gpu_score: int = Field(4_000_000, ge=1, description="highest gpu_score that a node may claim")
    max_node_gpu_memory_gb: int = Field(4096, ge=1, description="most GPU memory that a node may claim, GiB")
    unproven_node_cpu_score: int = Field(
        64_000, ge=1, description="a node counts no more than this until tasks ended well on it"
    )
    unproven_node_memory_gb: int = Field(256, ge=1, description="the same of its memory, GiB")
    unproven_node_gpu_memory_gb: int = Field(192, ge=1, description="the same of its GPU memory, GiB")
    unproven_node_tasks: int = Field(64, ge=1, description="the same of how many tasks it runs at once")
    max_nodes_per_user: int = Field(10_000, ge=1, description="active nodes that a user may have")
    broker_connections_per_node: int = Field(
        32, ge=4, description="connections to the broker that one agent may have; the newest beyond are cut"
    )
    max_stored_mb_per_user: int = Field(
        1 << 20, ge=1, description="most that the tasks of a user may keep (packages, results), MiB"
    )
    result_days: float = Field(
        30.0, ge=0, description="days after its end that a task's result and package are kept; 0: for ever"
    )
    log_days: float = Field(
        30.0,
        ge=0,
        description="days that its output is kept, never shorter than its result; 0: for ever",
    )
    task_days: float = Field(
        90.0, ge=0, description="days after which nothing of it is left but its payments; 0: for ever"
    )
    node_days: float = Field(
        90.0, ge=0, description="days after which a node that is not heard of is forgotten; 0: never"
    )

    @field_validator("rate_limit_trusted_networks")
    @classmethod
    def _trusted_networks_are_networks(cls, text: str, info: ValidationInfo) -> str:
        parse_networks(text, setting=str(info.field_name).upper())
        return text

    @cached_property
    def trusted_address_networks(self) -> tuple[Network, ...]:
        return parse_networks(self.rate_limit_trusted_networks)

    @cached_property
    def retention(self) -> Retention:
        return Retention(self.result_days, self.log_days, self.task_days)

    @cached_property
    def heavy_limits(self) -> HeavyLimits:
        return HeavyLimits(
            processes=self.heavy_processes,
            cpu_seconds=self.heavy_cpu_seconds,
            memory_bytes=self.heavy_memory_mb << 20,
            waiting_of_one=self.heavy_waiting_per_account,
            waiting=100 * self.heavy_waiting_per_account,
        )

    @cached_property
    def claim_rules(self) -> ClaimRules:
        most = (
            self.max_node_cpu_score, self.max_node_memory_gb,
            self.max_node_gpu_score, self.max_node_gpu_memory_gb,
        )  # fmt: skip
        unproven = (
            self.unproven_node_cpu_score, self.unproven_node_memory_gb,
            self.max_node_gpu_score, self.unproven_node_gpu_memory_gb,
        )  # fmt: skip
        return ClaimRules(
            most=Resources(*most),
            most_cores=self.max_node_cpu_cores,
            unproven=Resources(*unproven),
            unproven_tasks=self.unproven_node_tasks,
        )
