"""The agent of the selftest: copied into the folder of each probe's agent, and only there called."""
