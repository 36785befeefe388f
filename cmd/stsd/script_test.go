package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/protobuf/reflect/protoreflect"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/storage"
	"github.com/workload-sts/sts/sts"
	"github.com/workload-sts/sts/sts/resource"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"stsd": func() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) },
	})
}

// TestScripts runs the commands as an operator does; see testdata. What the
// scripts have besides:
//
//	await FILE     waits until the development server answers whose dev.env this
//	               is, and takes over what it says
//	dangle STORE   puts a Rule into a store whose Audience does not exist
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:  "testdata",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"await": awaitServer, "dangle": dangle},
		Setup: func(e *testscript.Env) error {
			e.Setenv("GORACE", "atexit_sleep_ms=0") // else each process waits a second
			return nil
		},
	})
}

func awaitServer(ts *testscript.TestScript, _ bool, args []string) {
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		env, err := readEnv(ts.MkAbs(args[0]))
		ts.Check(err)
		resp, err := http.Get(env["STS_HTTP"] + "/healthz/live")
		if err != nil {
			continue
		}
		resp.Body.Close()
		for name, value := range env {
			ts.Setenv(name, value)
		}
		return
	}
	ts.Fatalf("nobody answers after 20 s")
}

func dangle(ts *testscript.TestScript, _ bool, args []string) {
	kv, err := storage.OpenBolt(ts.MkAbs(args[0]), storage.BoltOptions{})
	ts.Check(err)
	store, ctx := storage.NewStore(kv), context.Background()
	live, err := store.Load(ctx, sts.Place{Line: sts.Live})
	ts.Check(err)
	rule := &policy.Rule{Name: "dangling", Requester: policy.Requester{Clients: []string{demo}}, Allow: policy.Allow{Audiences: []string{"nowhere"}}}
	_, err = store.Commit(ctx, sts.Commit{
		Line: sts.Live, Expected: live.Number, From: sts.Place{Line: sts.Live, Number: live.Number}, Put: []sts.Resource{{Rule: rule}},
	})
	ts.Check(err)
	ts.Check(kv.Close())
}

// TestReport holds that a refusal of resources is told with what is wrong.
func TestReport(t *testing.T) {
	var b strings.Builder
	report(&b, fmt.Errorf("making the demo resources: %w", &sts.Error{
		Code: sts.InvalidResource, Message: "nothing was changed",
		Problems: []sts.Problem{{Ref: sts.Ref{Kind: sts.KindAudience, Name: demo}, Field: "identifiers[0]", Message: "is taken"}},
	}))
	want := "stsd: making the demo resources: invalid_resource: nothing was changed\nAudience \"demo\": identifiers[0]: is taken\n"
	if b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}

// TestExampleConfiguration holds that the configuration that is shipped has only
// keys that exist.
func TestExampleConfiguration(t *testing.T) {
	data, err := os.ReadFile("../../deploy/stsd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c := &stsv1.ServerConfig{}
	if _, problems := resource.Decode("stsd.yaml", data, c); len(problems) > 0 {
		t.Error(problems)
	}
	if c.Issuer == "" || c.Http.Tls.CertFile == "" || c.Audit.File == "" {
		t.Errorf("the example leaves out what is required: %v", c)
	}
	for i, m := range regexp.MustCompile(`(?m)^# ([a-z]+: \{.*\})$`).FindAllSubmatch(data, -1) {
		if _, problems := resource.Decode(fmt.Sprintf("comment %d", i+1), m[1], &stsv1.ServerConfig{}); len(problems) > 0 {
			t.Error(problems)
		}
	}
}

// TestConfigurationOnPages holds that the pieces of configuration that the pages
// show have only keys that exist.
func TestConfigurationOnPages(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, page := range append(pages, "../../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile("(?s)```(?:yaml)?\n(.*?)```").FindAllSubmatch(text, -1) {
			first, _, _ := strings.Cut(string(m[1]), ":")
			if (&stsv1.ServerConfig{}).ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(first)) == nil {
				continue // of something else
			}
			seen++
			if _, problems := resource.Decode(page, m[1], &stsv1.ServerConfig{}); len(problems) > 0 {
				t.Error(problems)
			}
		}
	}
	if seen < 7 {
		t.Errorf("only %d pieces of configuration found", seen)
	}
}
