// Package lazyre compiles regular expressions when they are first used: a
// repetition of a few hundred takes longer to compile than most programs take
// to start, and the guest's supervisor starts on emulated processors, too.
package lazyre

import (
	"regexp"
	"sync"
)

// New returns what compiles expr once, at the first call, and panics then if
// it does not parse.
func New(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}
