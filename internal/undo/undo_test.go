package undo

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestUndoRunsTheReversesLatestFirstAlsoAfterAFailure(t *testing.T) {
	var s Stack
	var ran []string
	boom := errors.New("boom")
	s.Push("removing a", func() error { ran = append(ran, "a"); return nil })
	s.Push("removing b", func() error { ran = append(ran, "b"); return boom })
	s.Push("removing c", func() error { ran = append(ran, "c"); return nil })
	err := s.Undo()
	if !errors.Is(err, boom) || !strings.Contains(err.Error(), "removing b") {
		t.Errorf("Undo() = %v, want the failure of b", err)
	}
	if diff := cmp.Diff([]string{"c", "b", "a"}, ran); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	if err := s.Undo(); err != nil || len(ran) != 3 {
		t.Errorf("a second Undo ran something: %v, %v", err, ran)
	}
}

func TestKeepForgetsTheReverses(t *testing.T) {
	var s Stack
	s.Push("removing a", func() error { t.Error("ran after Keep"); return nil })
	s.Keep()
	if err := s.Undo(); err != nil {
		t.Errorf("Undo() = %v", err)
	}
}

func TestUndoIntoRunsOnlyOnFailureAndJoinsWhatFails(t *testing.T) {
	attempt, revert := errors.New("attempt"), errors.New("revert")
	change := func(fail error) (ran bool, err error) {
		var s Stack
		defer s.UndoInto(&err)
		s.Push("reverting", func() error { ran = true; return revert })
		return ran, fail
	}
	if _, err := change(attempt); !errors.Is(err, attempt) || !errors.Is(err, revert) {
		t.Errorf("failed change = %v, want both errors", err)
	}
	if ran, err := change(nil); ran || err != nil {
		t.Errorf("good change ran its reverse: %v, %v", ran, err)
	}
}
