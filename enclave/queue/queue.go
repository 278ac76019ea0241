// Package queue lets a bounded number of requests run at a time. The others
// wait, bounded in all and for each key, and whoever has waited runs in turn:
// one request of each key after the other, so that a client with many requests
// delays another one's by one request of his, not by all.
package queue

import (
	"context"
	"errors"
	"sync"
)

// Why a request may not wait.
var (
	ErrFull    = errors.New("the queue is full")
	ErrKeyFull = errors.New("the queue has as many requests of this key as it may")
	ErrClosed  = errors.New("the queue is closed")
)

// Options of a Queue; all are over 0.
type Options struct {
	Slots   int // requests that run at a time
	Waiting int // requests that wait, all keys together
	PerKey  int // requests of one key that wait
}

// Queue is a queue. Use New.
type Queue struct {
	opt Options

	mu      sync.Mutex
	running int
	waiting int
	lines   map[string]*line
	turn    []*line // lines with somebody in them, the next first
	closed  bool
	changed chan struct{} // closed when running falls, made on demand
}

// line has the waiting requests of one key, the oldest first.
type line struct {
	key     string
	waiters []*waiter
}

type waiter struct{ answer chan error } // one answer, buffered

// New returns an empty Queue.
func New(opt Options) *Queue { return &Queue{opt: opt, lines: map[string]*line{}} }

// Acquire waits for the turn of a request of key and returns what ends it,
// which must be called; calling it again does nothing. The error is one of
// ErrFull, ErrKeyFull and ErrClosed, or ctx's.
func (q *Queue) Acquire(ctx context.Context, key string) (release func(), err error) {
	w, err := q.enter(key)
	if err != nil {
		return nil, err
	}
	if w == nil {
		return q.releaser(), nil
	}
	select {
	case err := <-w.answer:
		if err != nil {
			return nil, err
		}
		return q.releaser(), nil
	case <-ctx.Done():
		if q.leave(key, w) {
			return nil, ctx.Err()
		}
		// Its turn came at the same moment.
		if err := <-w.answer; err != nil {
			return nil, err
		}
		q.releaser()()
		return nil, ctx.Err()
	}
}

// enter takes a slot and returns nil, or a place in the key's line.
func (q *Queue) enter(key string) (*waiter, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return nil, ErrClosed
	case q.running < q.opt.Slots && q.waiting == 0:
		q.running++
		return nil, nil
	case q.waiting >= q.opt.Waiting:
		return nil, ErrFull
	}
	l := q.lines[key]
	if l == nil {
		l = &line{key: key}
		q.lines[key] = l
		q.turn = append(q.turn, l)
	}
	if len(l.waiters) >= q.opt.PerKey {
		return nil, ErrKeyFull
	}
	w := &waiter{answer: make(chan error, 1)}
	l.waiters = append(l.waiters, w)
	q.waiting++
	return w, nil
}

// leave takes a waiter out of its line; false if it is there no more.
func (q *Queue) leave(key string, w *waiter) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lines[key]
	if l == nil {
		return false
	}
	for i := range l.waiters {
		if l.waiters[i] != w {
			continue
		}
		l.waiters = append(l.waiters[:i], l.waiters[i+1:]...)
		q.waiting--
		if len(l.waiters) == 0 {
			q.drop(l)
		}
		return true
	}
	return false
}

// drop forgets an empty line and its turn.
func (q *Queue) drop(l *line) {
	delete(q.lines, l.key)
	for i := range q.turn {
		if q.turn[i] == l {
			q.turn = append(q.turn[:i], q.turn[i+1:]...)
			return
		}
	}
}

func (q *Queue) releaser() func() {
	var once sync.Once
	return func() {
		once.Do(func() {
			q.mu.Lock()
			defer q.mu.Unlock()
			q.running--
			for q.running < q.opt.Slots && q.waiting > 0 {
				q.next()
			}
			q.signal()
		})
	}
}

// next gives the slot that is free to the line whose turn it is.
func (q *Queue) next() {
	l := q.turn[0]
	q.turn = q.turn[1:]
	w := l.waiters[0]
	l.waiters = l.waiters[1:]
	if len(l.waiters) > 0 {
		q.turn = append(q.turn, l)
	} else {
		delete(q.lines, l.key)
	}
	q.waiting--
	q.running++
	w.answer <- nil
}

func (q *Queue) signal() {
	if q.changed != nil {
		close(q.changed)
		q.changed = nil
	}
}

// Close sends the waiting requests and all that come away. Those that run go
// on.
func (q *Queue) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for _, l := range q.lines {
		for _, w := range l.waiters {
			w.answer <- ErrClosed
		}
	}
	q.lines, q.turn, q.waiting = map[string]*line{}, nil, 0
}

// Open takes requests again.
func (q *Queue) Open() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = false
}

// Closed reports whether the queue is closed.
func (q *Queue) Closed() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed
}

// Load returns how many requests run and wait.
func (q *Queue) Load() (running, waiting int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.running, q.waiting
}

// Idle returns once nothing runs, or with ctx's error.
func (q *Queue) Idle(ctx context.Context) error {
	for {
		q.mu.Lock()
		if q.running == 0 {
			q.mu.Unlock()
			return nil
		}
		if q.changed == nil {
			q.changed = make(chan struct{})
		}
		changed := q.changed
		q.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
