"""The SDK as programs use it: `Pool`, its tasks and jobs, its executor, and the same for asyncio.

It stands on the connection and on packages; `NodePoolClient` stands beside it, one call for each of the
protocol's.
"""
