"""UserService: requests in, use cases called, replies out. No rules here."""

# Names and arguments are the protocol's.
# ruff: noqa: N802, ARG002
from __future__ import annotations

from functools import partial

from gateway import notify_messages, told_messages
from gateway.admission.arrival import Context
from gateway.auth import passwords
from gateway.auth.callers import current_client, current_identity
from gateway.auth.rate_limit import RateLimit
from gateway.context import Gateway
from gateway.usecases import accounts, login_guard, notify_targets, statements, user_secrets
from nodepool.domain.errors import NodePoolError, RateLimitedError
from nodepool.protocol import nodepool_pb2 as pb, nodepool_pb2_grpc as rpc

WRONG_LOGIN = "wrong username or password"


class UserServicer(rpc.UserServiceServicer):
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        settings = gateway.settings
        self._limit = RateLimit(
            gateway.redis, settings.login_attempts_per_minute, settings.trusted_address_networks
        )
        # Made ahead, so that the first unknown name takes no longer than the others.
        gateway.passwords.submit(None, partial(passwords.dummy_hash, settings.bcrypt_rounds))

    async def Login(self, request: pb.LoginRequest, context: Context) -> pb.LoginResponse:
        gateway, address = self._gateway, current_client().counted
        try:
            guesser = await gateway.run(login_guard.of_login, gateway, request.username, address)
            attempt = await gateway.run(self._limit.begin, "login", address, guesser.guard)
        except RateLimitedError:
            await gateway.run(accounts.refuse_limited, gateway, request.username, address)
            raise
        try:
            issued = await gateway.run_password(
                address, accounts.login, gateway, request.username, request.password, address
            )
        except NodePoolError:
            # A right password of a blocked user, or one that was not tried.
            await gateway.run(self._limit.give_back, attempt)
            raise
        if issued is None:
            return pb.LoginResponse(success=False, message=WRONG_LOGIN)
        await gateway.run(self._limit.give_back, attempt)
        return pb.LoginResponse(
            success=True, message="logged in", token=issued.token, expires_at=issued.expires_at
        )

    async def Register(self, request: pb.RegisterRequest, context: Context) -> pb.RegisterResponse:
        gateway, address = self._gateway, current_client().counted
        await gateway.run(self._limit.begin, "register", address)
        await gateway.run(accounts.check_newcomer, gateway, request.username, request.password)
        await gateway.run_password(address, accounts.register, gateway, request.username, request.password)
        return pb.RegisterResponse(success=True, message=f"{request.username} is registered; log in now")

    async def ChangePassword(
        self, request: pb.ChangePasswordRequest, context: Context
    ) -> pb.ChangePasswordResponse:
        gateway, identity = self._gateway, current_identity()
        old, new = request.old_password, request.new_password
        await gateway.run(accounts.check_change, gateway, identity, old, new)
        issued = await gateway.run_password(
            identity.user_id, accounts.change_password, gateway, identity, old, new
        )
        return pb.ChangePasswordResponse(
            success=True,
            message="the password is changed, and every older token has ended",
            token=issued.token,
            expires_at=issued.expires_at,
        )

    async def RefreshToken(
        self, request: pb.RefreshTokenRequest, context: Context
    ) -> pb.RefreshTokenResponse:
        issued = await self._gateway.run(accounts.refresh, self._gateway, current_identity())
        return pb.RefreshTokenResponse(
            success=True, message="a new token", token=issued.token, expires_at=issued.expires_at
        )

    async def Transfer(self, request: pb.TransferRequest, context: Context) -> pb.TransferResponse:
        receiver, amount_cpt = request.receiver_username, request.amount
        done = await self._gateway.run(
            accounts.transfer, self._gateway, current_identity(), receiver, amount_cpt, request.transfer_id
        )
        word = "were transferred before; nothing more was moved" if done.repeated else "are transferred"
        return pb.TransferResponse(
            success=True,
            message=f"{amount_cpt} CPT to {receiver} {word}",
            balance=done.balance_cpt,
            repeated_transfer=done.repeated,
        )

    async def GetBalance(self, request: pb.GetBalanceRequest, context: Context) -> pb.GetBalanceResponse:
        found = await self._gateway.run(accounts.balance, self._gateway, current_identity(), request.username)
        held = f", and tasks hold {found.held_cpt} more" if found.held_cpt else ""
        settings = self._gateway.settings
        return pb.GetBalanceResponse(
            success=True,
            message=f"{found.spendable_cpt} CPT{held}",
            balance=found.spendable_cpt,
            held=found.held_cpt,
            credit_score=found.credit_score,
            stored_bytes=found.stored_bytes,
            stored_bytes_limit=found.stored_bytes_limit,
            result_days=settings.result_days,
            log_days=settings.log_days,
            task_days=settings.task_days,
        )

    async def GetStatement(
        self, request: pb.GetStatementRequest, context: Context
    ) -> pb.GetStatementResponse:
        return await self._gateway.run_list(statements.statement, self._gateway, current_identity(), request)

    async def SetSecret(self, request: pb.SetSecretRequest, context: Context) -> pb.SetSecretResponse:
        identity, name = current_identity(), request.name
        replaced = await self._gateway.run(user_secrets.put, self._gateway, identity, name, request.value)
        words = "has another value now" if replaced else "is set"
        return pb.SetSecretResponse(success=True, message=f"secret {name} {words}", replaced=replaced)

    async def ListSecrets(self, request: pb.ListSecretsRequest, context: Context) -> pb.ListSecretsResponse:
        found = await self._gateway.run(user_secrets.list_own, self._gateway, current_identity())
        return pb.ListSecretsResponse(
            success=True,
            message=f"{len(found)} secrets",
            secrets=[
                pb.Secret(name=it.name, set_at=it.set_at, unreadable=not it.is_readable) for it in found
            ],
        )

    async def RemoveSecret(
        self, request: pb.RemoveSecretRequest, context: Context
    ) -> pb.RemoveSecretResponse:
        identity, name = current_identity(), request.name
        waiting = await self._gateway.run(user_secrets.remove, self._gateway, identity, name)
        words = f"; {waiting} tasks that have not begun need it, and will fail" if waiting else ""
        return pb.RemoveSecretResponse(
            success=True, message=f"secret {name} is removed{words}", waiting_tasks=waiting
        )

    async def SetNotifyTarget(
        self, request: pb.SetNotifyTargetRequest, context: Context
    ) -> pb.SetNotifyTargetResponse:
        identity, name, url = current_identity(), request.name, request.url
        put = partial(notify_targets.put, self._gateway, identity, name, url, rotate=request.rotate)
        return notify_messages.was_set(await self._gateway.run(put))

    async def ListNotifyTargets(
        self, request: pb.ListNotifyTargetsRequest, context: Context
    ) -> pb.ListNotifyTargetsResponse:
        found = await self._gateway.run(notify_targets.list_own, self._gateway, current_identity())
        return pb.ListNotifyTargetsResponse(
            success=True,
            message=f"{len(found)} targets",
            targets=[notify_messages.target(it) for it in found],
        )

    async def RemoveNotifyTarget(
        self, request: pb.RemoveNotifyTargetRequest, context: Context
    ) -> pb.RemoveNotifyTargetResponse:
        await self._gateway.run(notify_targets.remove, self._gateway, current_identity(), request.name)
        return pb.RemoveNotifyTargetResponse(success=True, message=f"target {request.name} is removed")

    async def TestNotifyTarget(
        self, request: pb.TestNotifyTargetRequest, context: Context
    ) -> pb.TestNotifyTargetResponse:
        gateway, identity = self._gateway, current_identity()
        if request.event_id:
            found = await gateway.run(notify_targets.look_at_test, gateway, identity, request.event_id)
        else:
            found = await gateway.run(notify_targets.begin_test, gateway, identity, request.name)
        told = told_messages.notification(found)
        return pb.TestNotifyTargetResponse(success=True, message=found.state, notification=told)

    async def ConfirmNotifyTarget(
        self, request: pb.ConfirmNotifyTargetRequest, context: Context
    ) -> pb.ConfirmNotifyTargetResponse:
        gateway, identity = self._gateway, current_identity()
        done = await gateway.run(notify_targets.confirm, gateway, identity, request.name, request.code)
        word = "is confirmed" if done else "was confirmed before"
        return pb.ConfirmNotifyTargetResponse(success=True, message=f"target {request.name} {word}")

    async def GetCredit(self, request: pb.GetCreditRequest, context: Context) -> pb.GetCreditResponse:
        return await self._gateway.run_list(statements.credit, self._gateway, current_identity(), request)
