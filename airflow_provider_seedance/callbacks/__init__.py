"""The webhook protocol, pure: tokens, signatures, payloads and the inbox in the task state store."""
