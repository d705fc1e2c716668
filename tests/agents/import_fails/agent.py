import a_module_that_is_not_there  # noqa: F401 - that it is not there is the point
