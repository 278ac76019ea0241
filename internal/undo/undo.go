// Package undo keeps the steps that take back a multi-step change: each step
// that succeeds pushes its reverse, a failure runs them in the opposite
// order, and Keep drops them once the whole change stands.
package undo

import (
	"errors"
	"fmt"
	"sync"
)

// Stack holds reverses. The zero value is ready; it is safe for concurrent
// use.
type Stack struct {
	mu    sync.Mutex
	steps []step
}

type step struct {
	what string
	f    func() error
}

// Push records how to take back a step that has just been done. what names
// the reverse in errors, as a gerund.
func (s *Stack) Push(what string, f func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steps = append(s.steps, step{what, f})
}

// Undo runs all reverses, the latest first, also after one fails, and returns
// every error. The stack is empty afterwards, so that a deferred Undo after
// an explicit one does nothing.
func (s *Stack) Undo() error {
	s.mu.Lock()
	steps := s.steps
	s.steps = nil
	s.mu.Unlock()
	var errs []error
	for i := len(steps) - 1; i >= 0; i-- {
		if err := steps[i].f(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", steps[i].what, err))
		}
	}
	return errors.Join(errs...)
}

// Keep forgets the reverses: the change stands.
func (s *Stack) Keep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steps = nil
}

// UndoInto runs Undo when *err is not nil and joins what fails in it; for use
// with defer in functions with a named error.
func (s *Stack) UndoInto(err *error) {
	if *err == nil {
		return
	}
	if uerr := s.Undo(); uerr != nil {
		*err = errors.Join(*err, fmt.Errorf("undoing: %w", uerr))
	}
}
