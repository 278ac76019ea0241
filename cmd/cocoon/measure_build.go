package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cocoon/image/info"
	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/measurements/pcr"
	"cocoon/measurements/verity"
)

// Limits of the files that are measured in memory, in bytes.
const (
	maxKernel = 128 << 20
	maxInitrd = 512 << 20
)

// readBuild reads the outputs of "make image" and "make packs". Hashes and
// dm-verity roots are computed from the files; where a description says
// something else, the build is refused.
func readBuild(imageDir, packsDir string) (*manifest.Inputs, error) {
	im, err := info.LoadImage(imageDir)
	if err != nil {
		return nil, err
	}
	packs, err := info.LoadPacks(packsDir)
	if err != nil {
		return nil, err
	}
	in := &manifest.Inputs{Image: imageOf(&im), Epoch: time.Unix(im.Epoch, 0)}
	var errs []error
	add := func(dir, prefix, file, described string) {
		a, err := hashFile(prefix+file, filepath.Join(dir, filepath.Base(file)))
		if err == nil && a.SHA256.String() != described {
			err = fmt.Errorf("%s has SHA-256 %s, its description says %.64q", a.Name, a.SHA256, described)
		}
		errs = append(errs, err)
		in.Artifacts = append(in.Artifacts, a)
	}
	for _, a := range im.Artefacts {
		add(imageDir, "image/", a.File, a.SHA256)
	}
	for _, p := range packs.Packs {
		add(packsDir, "packs/", p.File, p.SHA256)
	}
	errs = append(errs, readMeasured(in, imageDir, &im), checkVerity(filepath.Join(imageDir, info.RootDisk), im.Root))
	in.Engine, err = packRoot(packs, packsDir, "engine")
	errs = append(errs, err)
	in.Model, err = packRoot(packs, packsDir, "model")
	errs = append(errs, err)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	in.Inputs, err = buildInputs(&im, &packs)
	return in, err
}

// imageOf names an image. Its profile is in its name, as in "cocoon-cpu".
func imageOf(im *info.Image) manifest.Image {
	profile := im.Name[strings.LastIndex(im.Name, "-")+1:]
	return manifest.Image{Name: im.Name, Version: im.Version, Profile: profile, Debug: profile == "debug"}
}

// readMeasured reads what the firmware measures.
func readMeasured(in *manifest.Inputs, dir string, im *info.Image) error {
	kernel, err := readInput("kernel", filepath.Join(dir, info.Kernel), maxKernel)
	if err != nil {
		return err
	}
	initrd, err := readInput("initrd", filepath.Join(dir, info.Initrd), maxInitrd)
	if err != nil {
		return err
	}
	cmdline, err := readInput("command line", filepath.Join(dir, info.Cmdline), pcr.MaxCmdline)
	if err != nil {
		return err
	}
	if string(cmdline) != im.Cmdline {
		return errors.New("command line is not the one in the description")
	}
	in.Files = pcr.Files{Kernel: kernel, Initrd: initrd, Cmdline: string(cmdline)}
	return nil
}

// packRoot returns the dm-verity root of a pack, after checking that the file
// has it.
func packRoot(packs info.Packs, dir, name string) (digest.SHA256, error) {
	p, err := packs.Find(name)
	if err != nil {
		return digest.SHA256{}, err
	}
	if err := checkVerity(filepath.Join(dir, filepath.Base(p.File)), p.Verity); err != nil {
		return digest.SHA256{}, err
	}
	return digest.Parse256(p.Verity.Root)
}

// checkVerity reads a whole disk and checks it against its dm-verity root.
func checkVerity(path string, v info.Verity) error {
	root, salt, err := v.Params()
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("opening disk: %w", err)
	}
	defer f.Close()
	if err := verity.Verify(f, v.DataBlocks, salt, root); err != nil {
		return fmt.Errorf("checking %s against its verity root: %w", filepath.Base(path), err)
	}
	return nil
}

// buildInputs lists what the build was made from: packages by hash, the
// toolchain by name, and the two descriptions' lists as a whole.
func buildInputs(im *info.Image, packs *info.Packs) ([]manifest.Artifact, error) {
	seen := map[string]bool{}
	var out []manifest.Artifact
	addPackages := func(prefix string, ps []info.Package) error {
		for _, p := range ps {
			sum, err := digest.Parse256(p.SHA256)
			if err != nil {
				return fmt.Errorf("package %s: %w", p.Name, err)
			}
			name := prefix + p.Name + "_" + p.Version + "_" + p.Arch
			if !seen[name] {
				seen[name] = true
				out = append(out, manifest.Artifact{Name: name, SHA256: sum})
			}
		}
		return nil
	}
	if err := errors.Join(addPackages("deb/", im.Packages), addPackages("deb/", packs.Packages), addPackages("tool/", im.ToolsUsed)); err != nil {
		return nil, err
	}
	toolchain, err := jcs.Hash(map[string]string{"go": im.Go, "kernel": im.KernelName})
	if err != nil {
		return nil, err
	}
	return append(out, manifest.Artifact{Name: "toolchain/" + im.Go, SHA256: toolchain}), nil
}

// hashFile returns a file's hash and size under a name.
func hashFile(name, path string) (manifest.Artifact, error) {
	f, err := os.Open(path)
	if err != nil {
		return manifest.Artifact{Name: name}, fmt.Errorf("hashing file: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return manifest.Artifact{Name: name}, fmt.Errorf("hashing %s: %w", name, err)
	}
	return manifest.Artifact{Name: name, SHA256: digest.SHA256(h.Sum(nil)), Size: n}, nil
}
