package fwcfg

import (
	"errors"
	"io/fs"
	"testing"
	"testing/fstest"
)

func TestRead(t *testing.T) {
	files := fstest.MapFS{Config + "/raw": {Data: []byte("{}")}}
	if b, err := Read(files, Config, 2); err != nil || string(b) != "{}" {
		t.Errorf("a file at the limit: got %q, %v", b, err)
	}
	if _, err := Read(files, Config, 1); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a file over the limit: got %v, want ErrTooLarge", err)
	}
	if _, err := Read(files, Operator, 10); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: got %v, want ErrNotExist", err)
	}
}
