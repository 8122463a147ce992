"""Work that costs much: in processes and threads of its own, bounded, niced, and fair by account.

It must know neither gRPC nor who asks; accounts are whatever the caller counts by.
"""
