package machine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"cocoon/hostd/qemu"
	"cocoon/hostd/spec"
	"cocoon/hostd/swtpm"
	"cocoon/hostd/vfio"
	"cocoon/internal/fault"
	"cocoon/internal/undo"
	"cocoon/verifier/snp/idblock"
)

// hardware fills in what the arguments of a guest with a TEE or devices
// depend on beside the spec.
func hardware(s *spec.Spec, o *qemu.Options) error {
	if s.Confidential() && s.Config != "" {
		b, err := os.ReadFile(s.Config)
		if err != nil {
			return fmt.Errorf("reading config: %w", err)
		}
		sum := sha256.Sum256(b)
		o.ConfigSHA256 = sum[:]
	}
	if s.SNP != nil && s.SNP.IDBlock != "" {
		var err error
		if o.IDBlock, err = os.ReadFile(s.SNP.IDBlock); err == nil {
			o.IDAuth, err = os.ReadFile(s.SNP.IDAuth)
		}
		if err != nil {
			return fmt.Errorf("reading ID block: %w", err)
		}
		// The processor would refuse it late and say less.
		b, err := idblock.Verify(o.IDBlock, o.IDAuth)
		if err != nil {
			return fault.New(fault.ExitParse, "vm.snp.id_block", "make it with: cocoon measure snp --id-key", "reading ID block: %w", err)
		}
		if got := uint64(b.Policy); got != s.SNPPolicy() {
			return fault.Mismatch(fault.ExitParse, "vm.snp.id_block", "guest policy of the ID block", fmt.Sprintf("%#x", s.SNPPolicy()), fmt.Sprintf("%#x", got), "give the spec and the ID block one policy")
		}
	}
	if s.GPUs == nil {
		return nil
	}
	sys, err := vfio.NewLinux()
	if err != nil {
		return err
	}
	o.DeviceNode = map[string]int{}
	for _, bdf := range s.GPUs.Devices {
		d, err := vfio.Read(sys, bdf)
		if err != nil {
			return err
		}
		if d.NUMA >= 0 {
			o.DeviceNode[bdf] = d.NUMA
		}
	}
	return nil
}

// makeTPM starts the software TPM and returns its control channel. A guest
// with a TEE gets none: the host knows all of its keys.
func (m *Machine) makeTPM(ctx context.Context, u *undo.Stack) (*os.File, error) {
	o := m.o
	if o.Spec.Confidential() {
		f, err := os.Open(os.DevNull)
		if err != nil {
			return nil, fmt.Errorf("starting QEMU: %w", err)
		}
		return f, nil
	}
	dir := filepath.Join(o.Dir, TPMDir)
	ek, err := swtpm.Manufacture(ctx, o.Tools, dir, o.CA)
	if err != nil {
		return nil, fmt.Errorf("manufacturing software TPM: %w", err)
	}
	sum := sha256.Sum256(ek.Raw)
	tpm, ctrl, err := swtpm.Start(o.Tools, dir)
	if err != nil {
		return nil, err
	}
	m.tpm = tpm
	u.Push("ending software TPM", tpm.Close)
	if err := m.update(func(s *State) { s.EKSHA256 = hex.EncodeToString(sum[:]) }); err != nil {
		ctrl.Close()
		return nil, err
	}
	if o.TPM != nil {
		if ctrl, err = o.TPM(ctrl); err != nil {
			return nil, fmt.Errorf("interposing on the TPM: %w", err)
		}
	}
	return ctrl, nil
}

// placement returns the host CPUs on which each virtual processor may run;
// one that is not in it may run anywhere.
func placement(s *spec.Spec) (map[int][]int, error) {
	out := map[int][]int{}
	first := 0
	for _, n := range s.NUMA {
		if n.HostCPUs != "" {
			list, err := spec.ParseCPUs(n.HostCPUs)
			if err != nil {
				return nil, err
			}
			for c := range n.CPUs {
				out[first+c] = list
			}
		}
		first += n.CPUs
	}
	return out, nil
}

// pin binds the threads of virtual processors to the host CPUs of the spec.
func (m *Machine) pin(ctx context.Context) error {
	where, err := placement(m.o.Spec)
	if err != nil || len(where) == 0 {
		return err
	}
	var cpus []struct {
		Index  int `json:"cpu-index"`
		Thread int `json:"thread-id"`
	}
	if err := m.qmp.Do(ctx, "query-cpus-fast", nil, &cpus); err != nil {
		return fmt.Errorf("pinning processors: %w", err)
	}
	for _, c := range cpus {
		list := where[c.Index]
		if list == nil {
			continue
		}
		var set unix.CPUSet
		for _, n := range list {
			set.Set(n)
		}
		if err := unix.SchedSetaffinity(c.Thread, &set); err != nil {
			return fault.New(fault.ExitNotReady, "vm.numa.pin", "name CPUs that are online and that hostd may use (cpuset of its unit) in host_cpus", "pinning virtual processor %d to %v: %w", c.Index, list, err)
		}
	}
	return nil
}
