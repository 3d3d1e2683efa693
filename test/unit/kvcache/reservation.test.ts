import { describe, expect, it } from 'vitest';
import { BlockPool } from '../../../src/kvcache/block-pool.ts';
import { BlockTable } from '../../../src/kvcache/block-table.ts';
import { StepReservation } from '../../../src/kvcache/reservation.ts';

function setUp(numBlocks: number) {
  const pool = new BlockPool(numBlocks);
  return { pool, reservation: new StepReservation(pool, 4), table: new BlockTable() };
}

const blocksOf = (table: BlockTable) => Array.from(table.blocks.subarray(0, table.length));

describe('StepReservation', () => {
  it('takes what is missing, all or nothing', () => {
    const { pool, reservation, table } = setUp(3);
    expect(reservation.extend(table, 5)).toBe(true);
    expect(blocksOf(table)).toEqual([0, 1]);
    expect(reservation.extend(table, 8)).toBe(true);
    expect(table.length).toBe(2);
    const other = new BlockTable();
    expect(reservation.extend(other, 8)).toBe(false);
    expect(other.length).toBe(0);
    expect(pool.numFree).toBe(1);
  });

  it('gives back exactly what the step took when it is released', () => {
    const { pool, reservation, table } = setUp(6);
    reservation.extend(table, 8);
    reservation.commit();
    reservation.extend(table, 17);
    expect(table.length).toBe(5);
    reservation.release();
    expect(blocksOf(table)).toEqual([0, 1]);
    expect(pool.numFree).toBe(4);
  });

  it('copies a shared block and keeps its source until the step ran', () => {
    const { pool, reservation, table } = setUp(3);
    const source = pool.allocate();
    table.shareAsCopy(pool, source);
    pool.release(source);
    reservation.extend(table, 3);
    const copies = new Int32Array(4);
    expect(reservation.copies(copies)).toBe(1);
    expect([...copies.subarray(0, 2)]).toEqual([source, 1]);
    expect(pool.refCount(source)).toBe(1);
    reservation.commit();
    expect(pool.refCount(source)).toBe(0);
    expect(table.copySource).toBe(-1);
    expect(reservation.copies(copies)).toBe(0);
  });

  it('keeps a copy pending when the step failed', () => {
    const { pool, reservation, table } = setUp(3);
    table.shareAsCopy(pool, pool.allocate());
    reservation.extend(table, 3);
    reservation.release();
    expect(table.copySource).toBe(0);
    expect(table.length).toBe(0);
    table.free(pool);
    expect(pool.refCount(0)).toBe(1);
    expect(pool.numFree).toBe(2);
  });

  it('forgets a dropped table and its copy', () => {
    const { pool, reservation, table } = setUp(4);
    const other = new BlockTable();
    const source = pool.allocate();
    table.shareAsCopy(pool, source);
    reservation.extend(table, 2);
    reservation.extend(other, 2);
    reservation.drop(table);
    table.free(pool);
    expect(reservation.copies(new Int32Array(4))).toBe(0);
    expect(reservation.length).toBe(1);
    reservation.commit();
    expect(pool.refCount(source)).toBe(1);
    expect(pool.numFree).toBe(2);
  });
});

describe('BlockTable', () => {
  it('frees its deepest blocks first, so that they are overwritten first', () => {
    const pool = new BlockPool(10);
    const table = new BlockTable();
    for (let i = 0; i < 10; i++) {
      table.push(pool.allocate());
      pool.markCached(i);
    }
    table.free(pool);
    expect(pool.freeList()).toEqual([9, 8, 7, 6, 5, 4, 3, 2, 1, 0]);
    expect(table.length).toBe(0);
  });
});
