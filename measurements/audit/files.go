package audit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"cocoon/internal/bootargs"
	"cocoon/measurements/corim"
	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/measurements/release"
	"cocoon/measurements/sbom"
	"cocoon/measurements/verity"
)

// workers is how many files are hashed at a time.
const workers = 2

// own are the files of a release that are no entries of its manifest; each is
// checked by a row of its own.
var own = map[string]bool{
	release.ManifestFile: true, release.CoRIMFile: true, release.SBOMFile: true, release.KeysFile: true,
	release.PageFile: true, release.InclusionFile: true, release.ConsistencyFile: true,
}

// expected is a file that the manifest names.
type expected struct {
	check, path string
	a           manifest.Artifact
}

// checkFiles hashes every file of the release and holds it against the
// manifest; a file that nobody vouches for is one too many.
func (a *audit) checkFiles(ctx context.Context) error {
	var want []expected
	listed := map[string]bool{}
	for _, kind := range []struct {
		check   string
		entries []manifest.Artifact
	}{{"artifact.hash", a.v.Manifest.Artifacts}, {"input.hash", a.v.Manifest.Inputs}} {
		for _, e := range kind.entries {
			path, ok := release.Path(e)
			if ok && !listed[path] {
				listed[path] = true
				want = append(want, expected{kind.check, path, e})
			}
		}
	}
	rows := make([]Row, len(want))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	for i, e := range want {
		g.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			rows[i] = a.hashFile(e)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("hashing the release: %w", err)
	}
	a.bad = map[string]bool{}
	for i, r := range rows {
		a.bad[want[i].path] = r.Status == Fail
		a.add(r)
	}
	for _, f := range a.files {
		if !listed[f.Name] && !own[f.Name] && !strings.HasPrefix(f.Name, release.SavedDir+"/") {
			a.add(Row{Check: "artifact.extra", Name: f.Name, Status: Fail, Expected: "no such file", Actual: fmt.Sprintf("%d bytes", f.Size),
				Reason: "the manifest does not name the file", Means: "something was added to the release", Remedy: "do not use the file; fetch the release again"})
		}
	}
	a.checkVerity()
	return nil
}

func (a *audit) hashFile(e expected) Row {
	row := Row{Check: e.check, Name: e.path, Status: Fail, Expected: e.a.SHA256.String(), Remedy: "fetch the file again"}
	if e.check == "input.hash" && e.path != e.a.Name {
		row.Name = e.a.Name + " (" + e.path + ")"
	}
	f, err := a.o.Source.Open(e.path)
	if err != nil {
		row.Actual, row.Reason, row.Means = "missing", "cannot be read: "+oneLine(err), "the release is incomplete"
		return row
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		row.Reason, row.Means = "cannot be read: "+oneLine(err), "the medium is faulty"
		return row
	}
	row.Actual = hex.EncodeToString(h.Sum(nil))
	switch {
	case row.Actual != row.Expected:
		row.Reason, row.Means = "the file is not the one in the manifest", "damaged on the way, exchanged, or of another release"
		if e.a.Size != 0 && n != e.a.Size {
			row.Reason += fmt.Sprintf(": %d bytes instead of %d", n, e.a.Size)
		}
	default:
		return Row{Check: row.Check, Name: row.Name, Status: Pass, Actual: row.Actual}
	}
	return row
}

// Names of the files that the checks below look into.
const (
	kernelFile  = release.ImageDir + "/vmlinuz"
	initrdFile  = release.ImageDir + "/initrd"
	rootFile    = release.ImageDir + "/root.img"
	cmdlineFile = release.ImageDir + "/cmdline"
	packsFile   = release.PacksDir + "/packs.json"
)

// checkVerity reads each disk against the dm-verity root that is measured:
// the root file system's in the command line, the packs' in the manifest.
func (a *audit) checkVerity() {
	type disk struct {
		path   string
		root   [verity.HashSize]byte
		salt   []byte
		blocks uint64
		err    error
	}
	boot, err := bootargs.Parse(a.v.Manifest.Boot.Cmdline)
	disks := []disk{{rootFile, boot.Hash, boot.Salt, boot.Blocks, err}}
	packs, err := a.packs()
	for _, pack := range []struct {
		name string
		root digest.SHA256
	}{{"engine", a.v.Manifest.Engines[0].ImageDigest}, {"model", a.v.Manifest.Models[0].VerityRoot}} {
		d := disk{path: release.PacksDir + "/" + pack.name + ".img", root: pack.root, err: err}
		if p, ok := packs[pack.name]; ok && err == nil {
			d.salt, d.blocks = p.salt, p.blocks
		} else if err == nil {
			d.err = fmt.Errorf("%s has no pack %s", packsFile, pack.name)
		}
		disks = append(disks, d)
	}
	rows := make([]Row, len(disks))
	var wg sync.WaitGroup
	for i, d := range disks {
		wg.Go(func() {
			row := Row{Check: "artifact.verity", Name: d.path, Status: Pass, Actual: digest.SHA256(d.root).String()}
			if d.err == nil {
				d.err = a.verifyDisk(d.path, d.blocks, d.salt, d.root)
			} else if a.bad[packsFile] {
				rows[i] = Row{Check: "artifact.verity", Name: d.path, Status: Skip, Reason: packsFile + " is not the one in the manifest"}
				return
			}
			if d.err != nil {
				row.Status, row.Expected, row.Actual = Fail, row.Actual, ""
				row.Reason, row.Means, row.Remedy = oneLine(d.err), "the guest refuses the disk at the first such block that it reads", "fetch the file again"
			}
			rows[i] = row
		})
	}
	wg.Wait()
	a.r.Rows = append(a.r.Rows, rows...)
}

func (a *audit) verifyDisk(path string, blocks uint64, salt []byte, root [verity.HashSize]byte) error {
	f, err := a.o.Source.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return verity.Verify(f, blocks, salt, root)
}

type packVerity struct {
	salt   []byte
	blocks uint64
}

// packs reads salt and size of each pack. They need no trust: with others the
// disk has another root.
func (a *audit) packs() (map[string]packVerity, error) {
	if a.bad[packsFile] {
		return nil, errors.New("the description of the packs is not the one in the manifest")
	}
	doc, err := ReadAll(a.o.Source, packsFile, 1<<20)
	if err != nil {
		return nil, err
	}
	var p struct {
		Packs []struct {
			Name   string `json:"name"`
			Verity struct {
				Salt       string `json:"salt"`
				DataBlocks uint64 `json:"data_blocks"`
			} `json:"verity"`
		} `json:"packs"`
	}
	if err := json.Unmarshal(doc, &p); err != nil {
		return nil, fmt.Errorf("reading %s: %w", packsFile, err)
	}
	out := map[string]packVerity{}
	for _, k := range p.Packs {
		salt, err := hex.DecodeString(k.Verity.Salt)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", packsFile, err)
		}
		out[k.Name] = packVerity{salt, k.Verity.DataBlocks}
	}
	return out, nil
}

// Documents returns the files of a release that follow from its manifest, by
// name.
func Documents(v *manifest.Verified) (map[string][]byte, error) {
	page, err := release.Page(v.Manifest, v.SHA256)
	if err != nil {
		return nil, err
	}
	bill, err := sbom.New(v.Manifest, v.SHA256)
	if err != nil {
		return nil, err
	}
	billDoc, err := bill.Encode()
	if err != nil {
		return nil, err
	}
	reference, err := corim.FromManifest(v.Manifest, v.SHA256)
	if err != nil {
		return nil, err
	}
	referenceDoc, err := reference.Encode()
	if err != nil {
		return nil, err
	}
	return map[string][]byte{release.PageFile: page, release.SBOMFile: billDoc, release.CoRIMFile: referenceDoc}, nil
}

// checkDocuments writes those files again and compares.
func (a *audit) checkDocuments() {
	docs, err := Documents(a.v)
	if err != nil {
		a.add(Row{Check: "document.written", Name: release.ManifestFile, Status: Fail, Reason: oneLine(err), Means: "the manifest names things that no release has"})
		return
	}
	for _, d := range []struct{ check, name string }{{"document.page", release.PageFile}, {"document.sbom", release.SBOMFile}, {"document.corim", release.CoRIMFile}} {
		got, ok := a.read(d.check, d.name, 64<<20)
		if !ok {
			continue
		}
		row := Row{Check: d.check, Name: d.name, Expected: digest.Sum256(docs[d.name]).String(), Actual: digest.Sum256(got).String()}
		if at := firstDifference(docs[d.name], got); at >= 0 {
			row.Reason = fmt.Sprintf("it is not what follows from the manifest, from byte %d on", at)
			row.Means, row.Remedy = "edited by hand, or written by another version of this program", "read manifest.json instead: it is what is signed"
		}
		a.equal(row)
	}
}

// firstDifference returns where two documents differ, -1 if they do not.
func firstDifference(x, y []byte) int {
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			return i
		}
	}
	if len(x) != len(y) {
		return min(len(x), len(y))
	}
	return -1
}
