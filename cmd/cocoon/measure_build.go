package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cocoon/image/info"
	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/measurements/modelpack"
	"cocoon/measurements/pcr"
	"cocoon/measurements/verity"
)

// Limits of the files that are measured in memory, in bytes.
const (
	maxKernel = 128 << 20
	maxInitrd = 512 << 20

	maxFirmware = 64 << 20
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
	if in.Inputs, err = buildInputs(&im, &packs); err != nil {
		return nil, err
	}
	for name, path := range map[string]string{"image/" + info.ImageFile: filepath.Join(imageDir, info.ImageFile), "packs/" + info.PacksFile: filepath.Join(packsDir, info.PacksFile)} {
		a, err := hashFile(name, path)
		if err != nil {
			return nil, err
		}
		in.Inputs = append(in.Inputs, a)
	}
	return in, nil
}

// usedTools is what "make deps" took: the lists of tools.used.json.
type usedTools struct {
	Tools  []info.Package `json:"tools"`
	Engine []info.Package `json:"engine"`
	Kernel []info.Package `json:"kernel"`
}

// readLocks names the files that fix what a build takes, and the packages that
// it took, among the inputs.
func (f *measureFlags) readLocks(in *manifest.Inputs) error {
	have := map[string]digest.SHA256{}
	for _, a := range in.Inputs {
		have[a.Name] = a.SHA256
	}
	files := f.locks
	if f.used != "" {
		files = append(slices.Clone(files), f.used)
		doc, err := readInput("--used", f.used, 4<<20)
		if err != nil {
			return err
		}
		var u usedTools
		// The builder reads the file strictly; here only the lists count.
		if err := json.Unmarshal(doc, &u); err != nil {
			return fault.New(fault.ExitParse, "measure.used", "run make deps again", "reading --used: %w", err)
		}
		for _, p := range slices.Concat(u.Tools, u.Engine, u.Kernel) {
			sum, err := digest.Parse256(p.SHA256)
			if err != nil {
				return fault.New(fault.ExitParse, "measure.used", "run make deps again", "reading --used: package %.64s: %w", p.Name, err)
			}
			name := "tool/" + p.Name + "_" + p.Version + "_" + p.Arch
			if old, ok := have[name]; ok {
				if old != sum {
					return fault.New(fault.ExitParse, "measure.used", "build the image again", "reading --used: %s has SHA-256 %s, the image was built with %s", name, sum, old)
				}
				continue
			}
			have[name] = sum
			in.Inputs = append(in.Inputs, manifest.Artifact{Name: name, SHA256: sum})
		}
	}
	for _, path := range files {
		a, err := hashFile("locks/"+filepath.Base(path), path)
		if err != nil {
			return fault.New(fault.ExitInternal, "file.unreadable", "check the path", "%w", err)
		}
		in.Inputs = append(in.Inputs, a)
	}
	return nil
}

// modelUsage describes --model.
const modelUsage = "allow the pack of this `name`, MODEL@REVISION:ROOT as cocoon model show prints it, beside that of the packs: an encrypted one, too; may be repeated"

// readModels reads the models that are allowed beside that of the packs. A root
// stands for itself: whoever has the pack can compute it again (cocoon model
// verify).
func (f *measureFlags) readModels() ([]manifest.Model, error) {
	var out []manifest.Model
	for _, id := range f.models {
		name, _, root, err := modelpack.ParseID(id)
		if err != nil {
			return nil, err
		}
		out = append(out, manifest.Model{Name: name, VerityRoot: root})
	}
	return out, nil
}

// imageOf names an image. Its profile is in its name, as in "cocoon-cpu".
func imageOf(im *info.Image) manifest.Image {
	profile := im.Name[strings.LastIndex(im.Name, "-")+1:]
	return manifest.Image{Name: im.Name, Version: im.Version, Profile: profile}
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
