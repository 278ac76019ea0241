package main

import (
	"strings"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/toolstree"
)

func TestABuildThatRanWithTheMachinesClockIsNotTakenForOneThatDidNot(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	for name, tt := range map[string]struct {
		log  string
		good bool
	}{
		"ahead":                {"apt\ncocoon: the clock says 2037-11-08T11:30:00Z\nrepart\n", true},
		"the machine's":        {"cocoon: the clock says 2026-11-26T11:30:00Z\n", false},
		"behind":               {"cocoon: the clock says 2001-09-09T01:46:40Z\n", false},
		"nothing is said":      {"apt\nrepart\n", false},
		"said inside a line":   {"x cocoon: the clock says 2037-11-08T11:30:00Z\n", false},
		"a day that is no day": {"cocoon: the clock says 2037-13-08T11:30:00Z\n", false},
	} {
		if _, err := checkClock(tt.log, now); (err == nil) != tt.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheToolsTreeRunsWithTheSecondBuildsClock(t *testing.T) {
	tree, err := toolstree.Find()
	if err != nil {
		t.Skipf("make deps has not run: %v", err)
	}
	b := &builder{deps: strings.TrimSuffix(tree.Dir, "/tools"), out: t.TempDir()}
	if err := b.requireToolsClock(t.Context()); err != nil {
		t.Error(err)
	}
	m, err := b.clockBind()
	if err != nil || !m.readOnly || !strings.HasPrefix(m.to, "/etc/python3.") {
		t.Errorf("%+v, %v", m, err)
	}
	b.deps = t.TempDir()
	if err := b.requireToolsClock(t.Context()); !fault.Has(err, "build.clock") {
		t.Errorf("without tools: %v", err)
	}
	if _, err := b.clockBind(); err == nil {
		t.Error("a tree without Python was taken")
	}
}
