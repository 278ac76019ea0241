package tee

import (
	"crypto/sha256"
	"fmt"

	"cocoon/measurements/eventlog"
	"cocoon/verifier/internal/lru"
)

// bootLog is what a CCEL says whatever it is held against. It is not written to.
type bootLog struct {
	*eventlog.Log
	key        [32]byte // SHA-256 of the CCEL
	size       int      // of it, in bytes
	traces     []eventlog.Trace
	violations []eventlog.Violation
}

// Bounds of logs.
const (
	keptLogs   = 128
	maxKeptLog = 256 << 10 // bytes
)

// logs keeps what was read of logs, under their SHA-256: a machine sends the same
// log for as long as it runs. Nil keeps nothing.
type logs struct{ c *lru.Cache[*bootLog] }

func newLogs() *logs { return &logs{lru.New[*bootLog](keptLogs)} }

// read reads and replays the CCEL of a machine of ours, where RTMR3 is the
// supervisor's.
func (l *logs) read(ccel []byte) (*bootLog, error) {
	b := &bootLog{key: sha256.Sum256(ccel), size: len(ccel)}
	if l != nil {
		if known, ok := l.c.Get(&b.key); ok {
			return known, nil
		}
	}
	var err error
	if b.Log, err = eventlog.ParseCCEL(ccel); err != nil {
		return nil, err
	}
	if len(b.Of(registerRTMR3)) != 0 {
		return nil, fmt.Errorf("firmware events in RTMR3")
	}
	if b.traces, err = b.Traces(eventlog.SHA384); err != nil {
		return nil, err
	}
	b.violations = b.Check()
	return b, nil
}

// keep keeps a log that replayed to the registers of a quote that is good: who
// has no such machine cannot fill the room.
func (l *logs) keep(b *bootLog) {
	if l != nil && b.size <= maxKeptLog {
		l.c.Put(&b.key, b)
	}
}
