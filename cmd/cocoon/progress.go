package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"cocoon/hostd/fetch"
)

// progressBar shows how far long work is: a bar on a terminal, a line a change
// of phase and every tenth elsewhere, or one JSON object a line.
type progressBar struct {
	w        io.Writer
	json     bool
	terminal bool
	began    time.Time
	last     fetch.Progress
	tenth    int64
	shown    bool // a bar is on the line
}

func newProgressBar(w io.Writer, asJSON bool) *progressBar {
	f, ok := w.(*os.File)
	return &progressBar{w: w, json: asJSON, terminal: ok && !asJSON && term.IsTerminal(int(f.Fd())), began: time.Now(), tenth: -1}
}

// show shows one report. What cannot be written is seen by nobody.
func (b *progressBar) show(p fetch.Progress) {
	if p.Name != b.last.Name {
		b.began, b.tenth = time.Now(), -1
	}
	phase := p.Phase != b.last.Phase || p.Name != b.last.Name
	b.last = p
	switch {
	case b.json:
		doc, err := json.Marshal(p)
		if err == nil {
			fmt.Fprintf(b.w, "%s\n", doc)
		}
	case b.terminal:
		fmt.Fprintf(b.w, "\r\x1b[K%s", b.line(p, true))
		b.shown = p.Phase != fetch.Done
		if !b.shown {
			fmt.Fprintln(b.w)
		}
	default:
		tenth := int64(-1)
		if p.Total > 0 {
			tenth = p.Bytes * 10 / p.Total
		}
		if phase || tenth > b.tenth {
			b.tenth = tenth
			fmt.Fprintln(b.w, b.line(p, false))
		}
	}
}

// end leaves the line of a bar that was not ended.
func (b *progressBar) end() {
	if b.shown {
		fmt.Fprintln(b.w)
	}
}

func (b *progressBar) line(p fetch.Progress, bar bool) string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s  %s", plain(p.Name), p.Phase)
	if p.Total > 0 {
		done := min(p.Bytes, p.Total)
		if bar {
			const width = 30
			n := int(done * width / p.Total)
			fmt.Fprintf(&s, "  [%s%s]", strings.Repeat("#", n), strings.Repeat(" ", width-n))
		}
		fmt.Fprintf(&s, "  %d %%", done*100/p.Total)
	}
	fmt.Fprintf(&s, "  %s", mib(p.Bytes))
	if p.Total > 0 {
		fmt.Fprintf(&s, " of %s", mib(p.Total))
	}
	if p.Resumed > 0 {
		fmt.Fprintf(&s, ", %s of them from before", mib(p.Resumed))
	}
	if t := time.Since(b.began).Seconds(); bar && p.Phase != fetch.Done && p.Error == "" && t > 1 {
		fmt.Fprintf(&s, ", %.1f MiB/s", float64(p.Bytes-p.Resumed)/t/(1<<20))
	}
	if p.Error != "" {
		fmt.Fprintf(&s, ": %s", plain(p.Error))
	}
	return s.String()
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
