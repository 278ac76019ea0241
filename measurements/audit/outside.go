package audit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cocoon/internal/fault"
)

func joinFaults(errs []error) error { return errors.Join(errs...) }

// asked is the row for somebody who could not be asked: unreachable where that
// is the network's fault.
func asked(check, name string, err error) Row {
	row := Row{Check: check, Name: name, Status: Fail, Reason: oneLine(err), Means: "the answer is missing or cannot be believed"}
	for _, f := range fault.All(err) {
		if row.Remedy == "" {
			row.Remedy = f.Remedy
		}
		if f.Exit == fault.ExitNetwork {
			row.Check, row.Means = check+unreachable, "nobody answered: this says nothing about the release"
		}
	}
	return row
}

// checkRegistry holds the manifest and its models against the ledger.
func (a *audit) checkRegistry(ctx context.Context) {
	const check = "registry.manifest"
	if a.o.Registry == nil {
		a.skip(check, "registry", "no ledger was given", "give --ton-config and --registry")
		return
	}
	s, err := a.o.Registry(ctx, a.v)
	if err != nil {
		a.add(asked("registry.state", "registry", err))
		return
	}
	name := fmt.Sprintf("%s on network %d", s.Address, s.NetworkID)
	row := Row{Check: check, Name: name, Status: Fail, Expected: "active", Actual: s.State, Means: "jobs are not released to workers that run this image", Remedy: "ask the registry's owner"}
	switch {
	case s.State == "":
		row.Actual, row.Reason = "not listed", "the registry does not list the manifest"
		row.Means += "; the release is older or newer than the ledger, or was never registered"
	case s.State == "grace" && !a.o.Now.Before(s.Until):
		row.Actual, row.Reason = "grace ended "+s.Until.UTC().Format(time.RFC3339), "the manifest's grace is over"
	case s.State == "grace":
		row = Row{Check: check, Name: name, Status: Pass, Actual: "in grace until " + s.Until.UTC().Format(time.RFC3339)}
	case s.State == "active":
		row = Row{Check: check, Name: name, Status: Pass, Actual: "active at " + s.Time.UTC().Format(time.RFC3339)}
	default:
		row.Reason = "the registry says that the manifest is " + s.State
	}
	a.add(row)
	for _, m := range a.v.Manifest.Models {
		row := Row{Check: "registry.model", Name: m.Name, Status: Pass, Actual: m.VerityRoot.String()}
		if !s.Models[m.VerityRoot] {
			row = Row{Check: "registry.model", Name: m.Name, Status: Fail, Expected: "a model that the registry lists", Actual: m.VerityRoot.String(),
				Reason: "the registry does not list the model", Means: "workers that serve it are paid for no job", Remedy: "ask the registry's owner"}
		}
		a.add(row)
	}
}

// checkRebuild builds the image again and compares.
func (a *audit) checkRebuild(ctx context.Context) {
	const check = "rebuild.artifact"
	if a.o.Rebuild == nil {
		a.skip(check, "image", "not asked for", "give --rebuild")
		return
	}
	got, err := a.o.Rebuild(ctx)
	if err != nil && len(got) == 0 {
		a.add(asked("rebuild.run", "image", err))
		return
	}
	rebuilt := map[string]Compared{}
	for _, c := range got {
		rebuilt[c.File] = c
	}
	n := 0
	for _, e := range a.v.Manifest.Artifacts {
		c, ok := rebuilt[e.Name]
		if !ok {
			continue
		}
		n++
		a.equal(Row{Check: check, Name: e.Name, Expected: e.SHA256.String(), Actual: c.Rebuilt, Reason: "the second build made another file",
			Means: means(c.Because), Remedy: "build with the commit, the Go version and the packages of the release, and compare the two files with diffoscope"})
	}
	if n == 0 {
		a.add(Row{Check: check, Name: "image", Status: Fail, Reason: "the second build made none of the artifacts"})
	}
}

func means(because string) string {
	if because != "" {
		return because
	}
	return "the sources here are not those of the release, or the build is not reproducible on this machine"
}

// checkMachine holds a machine's evidence against the manifest.
func (a *audit) checkMachine(ctx context.Context) {
	const check = "machine.evidence"
	if a.o.Machine == nil {
		a.skip(check, "machine", "none was given", "give --machine with a URL or a file of evidence")
		return
	}
	rows, err := a.o.Machine(ctx, a.v)
	if err != nil {
		a.add(asked(check, "machine", err))
		return
	}
	if len(rows) == 0 {
		a.add(Row{Check: check, Name: "machine", Status: Fail, Reason: "no check was made of it"})
	}
	a.r.Rows = append(a.r.Rows, rows...)
}
