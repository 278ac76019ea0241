package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/measurements/log"
	"cocoon/measurements/log/tiles"
	"cocoon/verifier/client"
	"cocoon/verifier/journal"
	"cocoon/verifier/result"
)

// logTimeout bounds each request for a part of a log.
const logTimeout = 30 * time.Second

// openLog opens a log in a directory, or at an address under a key that was
// given: what comes over a network has no key of its own.
func openLog(ctx context.Context, where, key string) (*tiles.Log, error) {
	if !isURL(where) {
		return tiles.Open(where)
	}
	if key == "" {
		return nil, usage("give the log's --log-key: a log at an address has none of its own")
	}
	k, err := log.ParseKey(key)
	if err != nil {
		return nil, err
	}
	l, err := tiles.OpenURL(ctx, where, k, &http.Client{Timeout: logTimeout})
	if err != nil && !errors.Is(err, log.ErrForm) && !errors.Is(err, log.ErrSignature) {
		return nil, fault.New(fault.ExitNetwork, "log.unreachable", "check the address", "opening log: %w", err)
	}
	return l, err
}

// loggedFlags say in which log a verdict must be.
type loggedFlags struct {
	log, key, promise string
	witnesses         []string
}

func (f *loggedFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.log, "log", "", "verifier's `URL`: the verdict must be in its log, too")
	fs.StringVar(&f.key, "log-key", "", "the log's verifier `key` (C2SP signed-note), from elsewhere than the log")
	fs.StringArrayVar(&f.witnesses, "witness", nil, "a witness's verifier `key`; may be repeated: all of them must have cosigned the log's checkpoint")
	fs.StringVar(&f.promise, "promise", "", "`file` with the promise that came with the verdict; without it the verifier is asked")
}

// check holds a verified verdict against the log: the promise is of this
// verdict, and the log has it there. Nothing is checked without --log.
func (f *loggedFlags) check(ctx context.Context, token string, e *result.EAR) error {
	if f.log == "" {
		if f.key != "" || f.promise != "" || len(f.witnesses) > 0 {
			return usage("--log-key, --promise and --witness are for --log")
		}
		return nil
	}
	l, err := openLog(ctx, f.log, f.key)
	if err != nil {
		return logFault(err)
	}
	index, leaf, err := f.place(ctx, token, e, l.Key())
	if err != nil {
		return err
	}
	p, err := l.ProveLeaf(ctx, index, leaf)
	if err != nil {
		if errors.Is(err, tiles.ErrNotPublished) {
			return fault.New(fault.ExitNetwork, "verdict.log.pending", "try again in some seconds; if it stays so, keep the promise: it shows that the verifier broke its word", "%w", err)
		}
		return logFault(err)
	}
	return logFault(cosigned(p.Checkpoint, f.witnesses))
}

func notLogged(format string, args ...any) error {
	return fault.New(fault.ExitRefused, "verdict.log", "do not rely on this verifier; keep verdict, promise and checkpoint as evidence", format, args...)
}

// place returns where the verdict must be, and its leaf hash.
func (f *loggedFlags) place(ctx context.Context, token string, e *result.EAR, k log.Key) (index uint64, leaf digest.SHA256, err error) {
	cell := ""
	var note []byte
	if f.promise != "" {
		if note, err = readInput("--promise", f.promise, log.MaxCheckpoint); err != nil {
			return 0, leaf, err
		}
	} else {
		c, err := client.New(client.Options{BaseURL: f.log})
		if err != nil {
			return 0, leaf, err
		}
		v, err := c.Logged(ctx, e.EvidenceSHA256)
		if err != nil {
			return 0, leaf, err
		}
		if v.EAR != token {
			return 0, leaf, notLogged("the verifier has another verdict on this evidence")
		}
		note, cell = []byte(v.Promise), v.Cell
	}
	p, err := journal.OpenPromise(note, k)
	if err != nil {
		return 0, leaf, notLogged("%w", err)
	}
	entry, err := journal.EntryOf(token, e, cell)
	if err != nil {
		return 0, leaf, err
	}
	if leaf, err = entry.Leaf(); err != nil {
		return 0, leaf, err
	}
	if p.Leaf != leaf {
		return 0, leaf, notLogged("the promise is of another verdict: its entry's hash is %s, the verdict's %s", p.Leaf, leaf)
	}
	return p.Index, leaf, nil
}

// loggedLine says that the log was looked into.
func loggedLine(f *loggedFlags) string {
	if f.log == "" {
		return "verified"
	}
	if len(f.witnesses) > 0 {
		return fmt.Sprintf("verified, and in the log at %s, cosigned by every witness", f.log)
	}
	return fmt.Sprintf("verified, and in the log at %s", f.log)
}

func isURL(s string) bool { return strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://") }
