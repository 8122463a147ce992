"""What a node is, says and may be believed. Pure: how far it is trusted stands in domain/trust."""
