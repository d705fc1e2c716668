# Empty on purpose: each module is one kernel mechanism and is imported by the step that applies it.
