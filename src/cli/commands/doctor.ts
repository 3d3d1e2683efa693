/** `loramux doctor`: what this machine can do, and whether known answers come out. */
import { Command } from 'commander';
import { formatBytes, print, printJson, table } from '../output.ts';

export function doctorCommand(): Command {
  return new Command('doctor')
    .description('describe this machine and check known answers; exit code 1 when a check fails')
    .option('--json', 'print one JSON object')
    .action(async ({ json }: { json?: boolean }) => {
      const [{ runChecks }, { machineFacts }] = await Promise.all([
        import('../doctor/checks.ts'),
        import('../doctor/machine.ts'),
      ]);
      const facts = machineFacts();
      const { isTTY } = process.stderr;
      const checks = await runChecks((name) => {
        if (isTTY) process.stderr.write(`checking: ${name} ...\n`);
      });
      const ok = checks.every(({ status }) => status !== 'failed');
      if (!ok) process.exitCode = 1;
      if (json) {
        printJson({ ok, ...facts, checks });
        return;
      }
      print(
        table([
          ['loramux', facts.version],
          ['Node.js', facts.node],
          ['platform', facts.platform],
          ['processor', `${facts.cpu.model}, ${facts.cpu.cores} cores`],
          ['memory', formatBytes(facts.memoryBytes)],
          ['addon', facts.addon ?? 'not built: run `npm run build:native`'],
          ['ONNX Runtime', facts.ort === null ? 'not loaded' : facts.ort.version],
          ['', facts.ort?.library ?? ''],
          ['kernels', facts.isas.join(', ')],
          ['features', facts.cpuFeatures.join(' ')],
        ]),
      );
      print('');
      print(
        table(checks.map(({ name, status, detail, ms }) => [status, name, `${detail} (${ms} ms)`])),
      );
    });
}
