// none: the caller wants no f16.
