package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"cocoon/image/debs"
	"cocoon/image/info"
	"cocoon/image/packs"
	"cocoon/measurements/modelpack"
)

// engineUUID is the identifier of the engine's file system; any fixed value
// serves.
const engineUUID = "6f9d2c1e-3c57-4f0a-8a0e-1d5a3a1e7c10"

// The toy model that comes with the repository, as its pack is named.
const (
	modelName     = "chat"
	modelRevision = "1"
)

// engineUser is who the engine's container runs as.
const engineUser = "root:x:0:0:root:/:/nonexistent\nengine:x:65532:65532:engine:/tmp:/nonexistent\n"

// packs makes build/packs: the engine's root file system and the model, each
// as one read-only disk.
func (b *builder) packs(ctx context.Context) error {
	u, err := b.tools(ctx)
	if err != nil {
		return err
	}
	inputs, err := b.inputs(u, []byte("packs"))
	if err != nil {
		return err
	}
	dir := b.path("packs")
	stamp := filepath.Join(dir, ".inputs")
	if got, err := os.ReadFile(stamp); err == nil && string(got) == inputs && completePacks(dir) {
		b.say("packs: up to date (%s)", dir)
		return nil
	}
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return fmt.Errorf("preparing %s: %w", dir, err)
	}
	work := b.path("packs.work")
	defer os.RemoveAll(work)
	if err := os.RemoveAll(work); err != nil {
		return fmt.Errorf("preparing %s: %w", work, err)
	}
	rootfs, err := b.engineRootfs(ctx, u, work)
	if err != nil {
		return err
	}
	p := info.Packs{Format: info.PacksFormat, Packages: packages(u.Engine)}
	// lz4 because the guest may have to decompress under emulation.
	o := packs.Options{Name: "engine", Serial: info.EngineSerial, Source: rootfs, UUID: engineUUID, Compression: "lz4hc,level=9",
		Tools: b.tree(), Epoch: imageEpoch, Dest: filepath.Join(dir, "engine.img")}
	if b.again {
		o.Env = clockEnv(b.tree().Dir)
	}
	engine, err := packs.Make(ctx, o)
	if err != nil {
		return err
	}
	model, err := b.model(ctx, filepath.Join(work, "model"), filepath.Join(dir, "model.img"))
	if err != nil {
		return err
	}
	for _, pack := range []info.Pack{engine, model} {
		b.say("packs: %-6s %10d bytes  verity root %s", pack.Name, pack.Size, pack.Verity.Root)
		p.Packs = append(p.Packs, pack)
	}
	if err := info.Write(filepath.Join(dir, info.PacksFile), p); err != nil {
		return err
	}
	if err := os.WriteFile(stamp, []byte(inputs), 0o644); err != nil {
		return fmt.Errorf("stamping the packs: %w", err)
	}
	return nil
}

// model packs the toy model as an operator packs any other.
func (b *builder) model(ctx context.Context, source, dest string) (info.Pack, error) {
	if err := os.MkdirAll(source, 0o755); err != nil {
		return info.Pack{}, fmt.Errorf("preparing the model: %w", err)
	}
	if err := copyFile(filepath.Join(b.root, "image", "models", "chat.gguf"), filepath.Join(source, "chat.gguf")); err != nil {
		return info.Pack{}, err
	}
	d, err := modelpack.Make(ctx, source, dest, modelpack.Options{Name: modelName, Revision: modelRevision})
	if err != nil {
		return info.Pack{}, err
	}
	return packs.Describe("model", info.ModelSerial, source, dest,
		info.Verity{Root: d.Verity.Root.String(), Salt: d.Verity.Salt.String(), DataBlocks: d.Verity.DataBlocks})
}

// engineRootfs unpacks the engine's packages and keeps llama-server, its
// back ends for every kind of x86-64 processor, and what they link to.
func (b *builder) engineRootfs(ctx context.Context, u used, work string) (string, error) {
	from, rootfs := filepath.Join(work, "debs"), filepath.Join(work, "rootfs")
	if err := debs.Unpack(ctx, b.debDir(), u.Engine, from); err != nil {
		return "", err
	}
	docs := make([]string, 0, len(u.Engine))
	for _, d := range u.Engine {
		if st, err := os.Stat(filepath.Join(from, "usr/share/doc", d.Name, "copyright")); err == nil && st.Mode().IsRegular() {
			docs = append(docs, d.Name)
		}
	}
	r := packs.Rootfs{
		From:     from,
		Programs: []string{"usr/bin/llama-server"},
		Plugins:  []string{"usr/lib/x86_64-linux-gnu/ggml/backends0/libggml-cpu-*.so"},
		Docs:     docs,
		Dirs:     []string{"dev", "models", "proc", "run/engine", "sys", "tmp"},
		Passwd:   engineUser,
		Group:    "root:x:0:\nengine:x:65532:\n",
	}
	if err := r.Build(rootfs); err != nil {
		return "", fmt.Errorf("making the engine's root file system: %w", err)
	}
	return rootfs, nil
}

func completePacks(dir string) bool {
	p, err := info.LoadPacks(dir)
	if err != nil {
		return false
	}
	for _, k := range p.Packs {
		if st, err := os.Stat(filepath.Join(dir, k.File)); err != nil || st.Size() != k.Size {
			return false
		}
	}
	return len(p.Packs) > 0
}
