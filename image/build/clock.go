package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"cocoon/internal/fault"
)

// The second build's clock is ahead by this much, for every program of the
// tools tree: libfaketime answers in the C library's place. Files keep the
// times that they have (NO_FAKE_STAT), and waiting takes as long as it takes.
const clockAhead = 4000 * 24 * time.Hour

// faketime is libfaketime in the tools tree, the one for programs with threads.
const faketime = "usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"

// clockEnv returns the variables that set the clock of a program that finds
// the tools tree at dir.
func clockEnv(dir string) []string {
	return []string{
		"LD_PRELOAD=" + filepath.Join(dir, faketime), fmt.Sprintf("FAKETIME=+%d", int(clockAhead.Seconds())),
		"NO_FAKE_STAT=1", "FAKE_UTIME=0", "FAKETIME_DONT_FAKE_MONOTONIC=1", "FAKETIME_DISABLE_SHM=1",
	}
}

// keepClock is Python that makes mkosi, which gives its programs a new
// environment, pass on the variables of the clock.
//
//go:embed clock.py
var keepClock []byte

// sitecustomize is what Python runs at its start, in the tools tree.
const sitecustomize = "etc/python3*/sitecustomize.py"

// clockBind puts keepClock where the tools tree's Python runs it.
func (b *builder) clockBind() (bind, error) {
	at, err := filepath.Glob(filepath.Join(b.tree().Dir, sitecustomize))
	if err == nil && len(at) != 1 {
		err = fmt.Errorf("%d files are called %s", len(at), sitecustomize)
	}
	if err != nil {
		return bind{}, fmt.Errorf("setting the second build's clock: %w", err)
	}
	to, err := filepath.Rel(b.tree().Dir, at[0])
	if err != nil {
		return bind{}, fmt.Errorf("setting the second build's clock: %w", err)
	}
	from := b.path("clock.py")
	return bind{from: from, to: "/" + to, readOnly: true}, writeFiles(from, keepClock)
}

// clockRE matches what mkosi.finalize says of its clock.
var clockRE = regexp.MustCompile(`(?m)^cocoon: the clock says ([0-9TZ:-]{20})$`)

// checkClock reads in mkosi's log what time it was in the build, so that a
// clock that was not set is not taken for one that does not matter.
func checkClock(log string, now time.Time) (time.Time, error) {
	m := clockRE.FindStringSubmatch(log)
	if m == nil {
		return time.Time{}, errors.New("mkosi's log does not say what time it was")
	}
	said, err := time.Parse(time.RFC3339, m[1])
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the build's clock: %w", err)
	}
	if off := now.Add(clockAhead).Sub(said); off < -time.Hour || off > 24*time.Hour {
		return said, fmt.Errorf("the build's clock said %s, which is not %d days ahead", m[1], int(clockAhead.Hours()/24))
	}
	return said, nil
}

// requireClock fails the second build if it ran with the machine's clock.
func (b *builder) requireClock(logPath string) error {
	log, err := os.ReadFile(logPath)
	if err != nil {
		return fmt.Errorf("reading mkosi's log: %w", err)
	}
	said, err := checkClock(string(log), time.Now())
	if err != nil {
		return fault.New(fault.ExitInternal, "build.clock", "report this with "+logPath, "building with another clock: %w", err)
	}
	b.say("reproduce: the clock said %s inside the second build", said.Format(time.RFC3339))
	return nil
}

// requireToolsClock does the same for the programs that run outside mkosi.
func (b *builder) requireToolsClock(ctx context.Context) error {
	cmd := b.tree().Command(ctx, "date", "-u", "+cocoon: the clock says %Y-%m-%dT%H:%M:%SZ")
	cmd.Env = append(cmd.Env, clockEnv(b.tree().Dir)...)
	out, err := cmd.CombinedOutput()
	if err == nil {
		_, err = checkClock(strings.TrimSpace(string(out)), time.Now())
	}
	if err != nil {
		return fault.New(fault.ExitInternal, "build.clock", "report this", "building with another clock: %w\n%s", err, out)
	}
	return nil
}
