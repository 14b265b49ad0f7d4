"""One module for each command of `cfs`; `cfstools.options` declares what they take."""
