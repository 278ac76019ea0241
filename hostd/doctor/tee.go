package doctor

import (
	"context"
	"errors"

	"cocoon/internal/fault"
)

// TEE says whether this host can start a guest of a kind, "tdx" or "snp": the
// faults are those of the checks that failed, under their ids. What could not
// be seen does not stand in the way: QEMU says it then.
func TEE(ctx context.Context, sys System, tee string) error {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	h := look(ctx, sys)
	items := cpuChecks(ctx, h, nil)
	if have := h.tee(); have != "" && have != tee {
		items = append(items, fail(forProduction, "cpu.tee", "write \"tee\": \""+have+"\" into the spec", "this CPU can do %s, not %s", have, tee))
	}
	switch tee {
	case "tdx":
		items = append(items, tdxChecks(ctx, h, nil)...)
	case "snp":
		items = append(items, snpChecks(ctx, h, nil)...)
	}
	items = append(items, kernelVersion(h), kvmDevice(h))
	var errs []error
	for _, it := range items {
		if it.Status == Fail {
			errs = append(errs, fault.New(fault.ExitNotReady, it.ID, it.Remedy, "examining the machine: %s", it.Finding))
		}
	}
	return errors.Join(errs...)
}
