def show_dry_run(*_):
    raise NotImplementedError
