package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/keyfile"
	"cocoon/measurements/digest"
	"cocoon/verifier/journal"
)

// fillers append at the same time, as that many requests would.
const fillers = 256

// fillJournal appends entries to a verifier's journal, which no verifier may have
// open, so that one can be measured with a large log. The entries are of verdicts
// that nobody gave: hashes of their numbers, which lead nowhere.
func fillJournal(ctx context.Context, o *options, stdout io.Writer) (err error) {
	dir, rest, _ := strings.Cut(o.fill, ",")
	key, origin, ok := strings.Cut(rest, ",")
	if !ok {
		return fault.New(fault.ExitInternal, "usage", "see --help", "-fill wants a directory, a key file and an origin")
	}
	private, err := keyfile.ReadEd25519(key)
	if err != nil {
		return fault.New(fault.ExitInternal, "verifier.journal", "name the journal's key", "reading key: %w", err)
	}
	j, err := journal.Open(journal.Options{Dir: dir, Origin: origin, Key: private, Promises: true, Publish: &journal.Publish{}})
	if err != nil {
		return fault.New(fault.ExitInternal, "verifier.journal", "stop the verifier that has it open", "opening journal: %w", err)
	}
	defer func() { err = errors.Join(err, j.Close()) }()
	first := j.Size()
	for part := range 10 {
		from, to := o.entries*part/10, o.entries*(part+1)/10
		if from == to {
			continue
		}
		start, used := time.Now(), cpuTime()
		if err := appendEntries(ctx, j, first, from, to); err != nil {
			return fault.New(fault.ExitInternal, "verifier.journal", "see that there is room", "%w", err)
		}
		n := float64(to - from)
		fmt.Fprintf(stdout, "entries %8d  %6.0f/s, %.0f µs of CPU each\n", j.Size(), n/time.Since(start).Seconds(), float64((cpuTime()-used).Microseconds())/n)
	}
	return nil
}

func appendEntries(ctx context.Context, j *journal.Journal, first uint64, from, to int) error {
	errs := make([]error, fillers)
	var wg sync.WaitGroup
	now := time.Now().UTC().Truncate(time.Second)
	for f := range fillers {
		wg.Go(func() {
			for i := from + f; i < to && errs[f] == nil; i += fillers {
				hash := func(what string) digest.SHA256 {
					return digest.Sum256(binary.BigEndian.AppendUint64([]byte("hammer "+what), first+uint64(i)))
				}
				_, errs[f] = j.Append(ctx, journal.Entry{Time: now, Expires: now.Add(time.Hour), Key: digest.Sum256([]byte("hammer")), Verdict: hash("verdict"),
					Evidence: hash("evidence"), Policy: digest.Sum256([]byte("policy")), Manifest: digest.Sum256([]byte("manifest"))})
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
