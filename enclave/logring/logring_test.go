package logring

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

func TestTheNewestLinesStay(t *testing.T) {
	var r Ring
	for i := range 3*MaxLines + 7 {
		fmt.Fprintf(&r, "line %d\n", i)
	}
	got := r.Lines()
	if len(got) != MaxLines || got[0] != fmt.Sprintf("line %d", 2*MaxLines+7) || got[MaxLines-1] != fmt.Sprintf("line %d", 3*MaxLines+6) {
		t.Errorf("%d lines from %q to %q", len(got), got[0], got[len(got)-1])
	}
}

func TestLinesAreWhole(t *testing.T) {
	var r Ring
	for _, part := range []string{"a", "b\nc", "", "\n\n", "d"} {
		if n, err := r.Write([]byte(part)); n != len(part) || err != nil {
			t.Errorf("wrote %d of %d, %v", n, len(part), err)
		}
	}
	if got := r.Lines(); !slices.Equal(got, []string{"ab", "c", ""}) {
		t.Errorf("got %q", got)
	}
}

func TestLongAndStrangeLines(t *testing.T) {
	var r Ring
	fmt.Fprintf(&r, "%s\n", strings.Repeat("x", 3*MaxLine))
	fmt.Fprintf(&r, "a\x1b[2Jb\xff\tc é\r\n")
	got := r.Lines()
	if len(got[0]) != MaxLine || got[1] != "a?[2Jb?\tc é?" {
		t.Errorf("got %d bytes and %q", len(got[0]), got[1])
	}
}

func TestManyWriters(t *testing.T) {
	var r Ring
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				fmt.Fprintln(&r, "whole")
				r.Lines()
			}
		})
	}
	wg.Wait()
	for _, l := range r.Lines() {
		if l != "whole" {
			t.Errorf("got %q", l)
		}
	}
}
