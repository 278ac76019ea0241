package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"

	"cocoon/image/info"
	"cocoon/internal/fault"
)

// repro builds image and packs a second time, in another directory, with
// another compiler cache and without anything of the first build but the
// downloaded packages, and requires every byte to be the same.
func (b *builder) repro(ctx context.Context) error {
	if err := b.image(ctx); err != nil {
		return err
	}
	if err := b.packs(ctx); err != nil {
		return err
	}
	second := *b
	second.out = b.path("repro")
	second.goenv = []string{"GOCACHE=" + second.path("gocache")}
	if err := os.RemoveAll(second.out); err != nil {
		return fmt.Errorf("preparing the second build: %w", err)
	}
	defer os.RemoveAll(second.out)
	if err := os.MkdirAll(second.out, 0o755); err != nil {
		return fmt.Errorf("preparing the second build: %w", err)
	}
	b.say("repro: building a second time in %s", second.out)
	if err := second.image(ctx); err != nil {
		return err
	}
	if err := second.packs(ctx); err != nil {
		return err
	}
	var differ []string
	for dir, names := range map[string][]string{
		"image": append(slices.Clone(imageFiles), info.ImageFile),
		"packs": {"engine.img", "model.img", info.PacksFile},
	} {
		for _, name := range names {
			same, err := sameFile(b.path(dir, name), second.path(dir, name))
			if err != nil {
				return err
			}
			verdict := "same bytes"
			if !same {
				verdict = "DIFFERS"
				differ = append(differ, dir+"/"+name)
			}
			b.say("repro: %-18s %s", dir+"/"+name, verdict)
		}
	}
	if len(differ) > 0 {
		return fault.New(fault.ExitRefused, "build.not_reproducible", "compare the two with diffoscope", "building twice: %v differ", differ)
	}
	return nil
}

func sameFile(a, b string) (bool, error) {
	x, err := os.ReadFile(a)
	if err != nil {
		return false, fmt.Errorf("comparing builds: %w", err)
	}
	y, err := os.ReadFile(b)
	if err != nil {
		return false, fmt.Errorf("comparing builds: %w", err)
	}
	return bytes.Equal(x, y), nil
}
