// Command generate makes what is committed beside the API's protobuf: the Go
// messages, the Connect client and handler, and the OpenAPI document. In come
// api/**/*.proto of the repository that it is started in; it needs no protoc,
// and the plugins are tools of go.mod.
package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/protoutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/pluginpb"
)

// root is the directory that import paths start at.
const root = "api"

// sources are the definitions. A service has operations beside the protobuf's
// where it answers other calls too.
var sources = []struct {
	proto string
	extra func(paths object)
}{
	{"verifier/v1/verifier.proto", verifierPaths},
	{"hostd/v1/hostd.proto", func(paths object) { paths["/metrics"] = object{"get": hostMetrics()} }},
}

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	c := protocompile.Compiler{
		Resolver:       protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{root}}),
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	for _, source := range sources {
		files, err := c.Compile(ctx, source.proto)
		if err != nil {
			return fmt.Errorf("compiling %s: %w", source.proto, err)
		}
		file := files[0]
		for _, plugin := range []string{"protoc-gen-go", "protoc-gen-connect-go"} {
			if err := generate(ctx, plugin, source.proto, file); err != nil {
				return fmt.Errorf("running %s: %w", plugin, err)
			}
		}
		doc, err := openAPI(file, source.extra)
		if err != nil {
			return fmt.Errorf("making OpenAPI document: %w", err)
		}
		if err := os.WriteFile(filepath.Join(root, filepath.Dir(source.proto), "openapi.json"), doc, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// generate runs one plugin over the file (plugin.proto's protocol) and writes
// what it makes.
func generate(ctx context.Context, plugin, source string, file protoreflect.FileDescriptor) error {
	req := &pluginpb.CodeGeneratorRequest{
		FileToGenerate: []string{source}, Parameter: proto.String("paths=source_relative"),
		ProtoFile: []*descriptorpb.FileDescriptorProto{
			protodesc.ToFileDescriptorProto(timestamppb.File_google_protobuf_timestamp_proto),
			protoutil.ProtoFromFileDescriptor(file),
		},
	}
	in, err := proto.Marshal(req)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "tool", plugin)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return err
	}
	var res pluginpb.CodeGeneratorResponse
	if err := proto.Unmarshal(out, &res); err != nil {
		return err
	}
	if res.Error != nil {
		return fmt.Errorf("plugin: %s", res.GetError())
	}
	for _, f := range res.File {
		path := filepath.Join(root, filepath.FromSlash(f.GetName()))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(f.GetContent()), 0o644); err != nil {
			return err
		}
	}
	return nil
}
