# Nearly empty on purpose: what is imported here would be loaded into every agent's process.
